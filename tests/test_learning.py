"""Rewards rise: the shipped miniature configurations against the real GenEval service. Minutes each, so marked slow."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from served_geneval import serve_geneval

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serve_geneval() as address:
        yield address


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
