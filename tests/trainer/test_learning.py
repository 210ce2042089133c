"""Rewards rise: the shipped miniature configurations against the real GenEval service. Minutes each, so marked slow."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    ready = tmp_path_factory.mktemp("service") / "ready.json"
    flags = ["serve.grpc_port=0", "serve.http_port=null", f"serve.ready_file={ready}"]
    service = subprocess.Popen(
        [sys.executable, "-m", "assay.cli", "serve", "geneval", *flags], cwd=ROOT, env=ENVIRONMENT
    )
    try:
        while not ready.exists():
            assert service.poll() is None
            time.sleep(0.05)
        yield json.loads(ready.read_text())["grpc"]
    finally:
        service.terminate()
        service.wait(timeout=60)


@pytest.mark.parametrize("config", ["miniature_counting", "miniature_fast", "miniature_nft"])
def test_the_reward_rises(config: str, target: str, tmp_path: Path) -> None:
    """Mean counting reward of the first and the last three of fourteen epochs: 768 images each, deviation 0.25, so that
    0.03 is more than two standard errors of the difference."""
    overrides = ["run.epochs=14", "run.threads=1", f"run.output={tmp_path / 'run'}", "run.trackers=[]"]
    overrides += [f"rewards.0.targets=[{target}]", "evaluation.num_images=32"]
    command = [sys.executable, "-m", "assay.cli", "train", f"configs/train/{config}.yaml", *overrides]
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True)
    rewards = [json.loads(line)["reward_mean"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rewards) == 14
    assert np.mean(rewards[-3:]) >= np.mean(rewards[:3]) + 0.03
