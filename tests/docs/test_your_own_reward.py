"""docs/your_own_reward.md: its files are written down as they stand, served, scored by, tested and trained on."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from math import hypot
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest
import yaml
from page_commands import ROOT, commands_of, make_home
from PIL import Image

from assay import RewardConfig

PAGE = "docs/your_own_reward.md"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
SHORT = ["run.epochs=1", "run.threads=1", "run.trackers=[]"]
SHORT += ["sampling.groups_per_epoch=4", "sampling.group_size=2", "sampling.num_steps=5"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / PAGE).read_text(), re.MULTILINE | re.DOTALL)


def run(command: str, home: Path, *further: str) -> str:
    done = subprocess.run(
        " ".join([command, *further]), shell=True, cwd=home, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the page's files in it."""
    folder = make_home(tmp_path_factory.mktemp("home"))
    scorer, _, test = blocks("python")
    (folder / "colourfulness.py").write_text(scorer)
    (folder / "test_colourfulness.py").write_text(test)
    return folder


@pytest.fixture(scope="module")
def target(home: Path) -> Iterator[str]:
    """The page's file, served as it says, on free ports."""
    ready = home / "ready.json"
    settings = ["grpc_port=0", "http_port=null", f"ready_file={ready}"]
    service = subprocess.Popen([sys.executable, "colourfulness.py", *settings], cwd=home, env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert service.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield json.loads(ready.read_text())["grpc"]
    finally:
        service.terminate()
        assert service.wait(timeout=60) == 0


def colourfulness(path: Path) -> float:
    """Hasler and Süsstrunk's M, over 255, pixel by pixel: another way to compute it than the page's."""
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=int).reshape(-1, 3).tolist()
    opponents = [[r - g for r, g, _ in pixels], [(r + g) / 2 - b for r, g, b in pixels]]
    means = [fmean(values) for values in opponents]
    spreads = [pstdev(values) for values in opponents]
    return (hypot(*spreads) + 0.3 * hypot(*means)) / 255


def test_it_is_as_short_as_it_says() -> None:
    code = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(code) <= 15
    assert "in 15 lines" in (ROOT / PAGE).read_text()


def test_a_setting_that_it_does_not_know_is_named(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "colourfulness.py", "grpc_prot=1"], cwd=home, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "colourfulness.py: settings: unknown field grpc_prot (did you mean grpc_port?" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_run(home: Path, target: str) -> None:
    serve, score, train, test = commands_of(PAGE)
    assert serve == ".venv/bin/python colourfulness.py grpc_port=50060 http_port=8090"  # what the fixture does
    scored = run(score.replace("localhost:50060", target), home)
    value = float(re.search(r"colourfulness = (\S+)", scored)[1])  # type: ignore[index]
    assert 0 < value < 2
    assert "1 passed" in run(test, home, "-q", "-p no:cacheprovider")
    run(train.replace("localhost:50060", target), home, *SHORT)
    [epoch] = [json.loads(line) for line in (home / "runs/colourful/metrics.jsonl").read_text().splitlines()]
    assert 0 < epoch["reward/colourful"] < 2
    assert epoch["unscored"] == 0


def test_the_lines_of_python_give_the_score_of_the_command(home: Path, target: str) -> None:
    (home / "ask.py").write_text(blocks("python")[1].replace("localhost:50060", target))
    value = float(re.search(r"value=([\d.]+)", run(".venv/bin/python ask.py", home))[1])  # type: ignore[index]
    assert value == pytest.approx(colourfulness(ROOT / "docs/three_apples.png"), abs=1e-6)


def test_the_rewards_are_a_valid_configuration() -> None:
    rewards: list[dict[str, Any]] = yaml.safe_load(blocks("yaml")[0])["rewards"]
    assert [RewardConfig.model_validate(reward).weight for reward in rewards] == [1.0, 0.2]
