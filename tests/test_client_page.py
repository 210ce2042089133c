"""docs/client.md: its commands, its lines of Python and its YAML, with a served GenEval."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from page_commands import ENVIRONMENT, ROOT, commands_of, make_home
from served_geneval import serve_geneval

from assay import RewardConfig

PAGE = "docs/client.md"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def target(home: Path) -> Iterator[str]:
    with serve_geneval(home) as address:
        yield address


def indented(first: str) -> str:
    """The indented block of the page that begins with `first`, without its indentation."""
    [block] = re.findall(rf"^    {re.escape(first)}.*\n(?:    .*\n)*", (ROOT / PAGE).read_text(), re.MULTILINE)
    return re.sub(r"^    ", "", block, flags=re.MULTILINE)


def test_every_command_of_the_page_runs(home: Path, target: str) -> None:
    commands = [command for command in commands_of(PAGE) if " serve " not in command]
    assert len(commands) == 3
    for command in commands:
        done = subprocess.run(
            f"{command} --target {target} --max-windows 2",
            shell=True,
            cwd=home,
            env=ENVIRONMENT,
            check=True,
            text=True,
            capture_output=True,
        )
        assert "Traceback" not in done.stderr
    [level] = json.loads(done.stdout)["levels"][:1]
    assert level["failures"] == 0
    rows = list(csv.DictReader((home / "bench.csv").read_text().splitlines()))
    assert [row["value"] for row in rows] == ["5.0", "10.0"]


def test_the_lines_of_python_run(target: str) -> None:
    code = indented("client = RewardClient(").replace("localhost:50051", target)
    command = [sys.executable, "-c", f"from assay import RewardClient\n{code}"]
    done = subprocess.run(command, env=ENVIRONMENT, check=True, text=True, capture_output=True)
    assert "hedges_won=0" in done.stdout


def test_the_rewards_are_a_valid_configuration() -> None:
    [reward] = yaml.safe_load(indented("rewards:"))["rewards"]
    assert RewardConfig.model_validate(reward).hedge_budget == 0.02
