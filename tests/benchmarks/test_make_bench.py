"""The benchmarks of `make bench` run to their end and print their figures; so small that these mean nothing."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
# The command's arguments, and how its last row of figures ends: a ratio above 0.
SMALLEST = {
    "null_scorer": ("--calls 20 --side 64", r"[\d.]+ +\d+"),
    "slow_replica": ("--seconds 2", r"p99 without copies / with: [\d.]+"),
    "batch_engine": ("--units 100", r"[\d.]+ +[\d.]+ +[\d.]+"),
    "image_generation": ("--samples 3 --instructions 1 --steps 1 --rounds 1", r"ratio +[\d.]+"),
    "geneval_evaluation": ("--prompts 4 --images 1 --rounds 1", r"ratio +[\d.]+"),
    "verifier": ("--candidates 2 --repeats 1", r"[\d.]+ +[\d.]+"),
    "spatial_evaluation": ("--samples 4 --tokens 2 --rounds 1", r"ratio +[\d.]+"),
    "training_throughput": ("--speeds 1 --rounds 1 --epochs 1", r"[\d.]+% +[\d.]+ +[\d.]+"),
}


def of_make() -> list[str]:
    lines = (ROOT / "Makefile").read_text().split("\nbench:")[1].split("\n\n")[0]
    return re.findall(r"benchmarks/(\w+)\.py", lines)


def test_all_of_make_bench_are_run_here() -> None:
    assert of_make() == list(SMALLEST)


@pytest.mark.parametrize("name", SMALLEST)
def test_it_prints_its_figures(name: str) -> None:
    arguments, figures = SMALLEST[name]
    command = [sys.executable, f"benchmarks/{name}.py", *shlex.split(arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ends = [re.search(rf"({figures})\s*$", line) for line in done.stdout.splitlines()]
    found = [match[1] for match in ends if match]
    assert found, done.stdout
    assert all(float(number) > 0 for number in re.findall(r"[\d.]*\d(?= |$)", found[-1]))
