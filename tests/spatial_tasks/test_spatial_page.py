"""docs/spatial_tasks.md, command by command, with a served judge in place of the service; and the configurations."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_commands import ROOT, commands_of, make_home, run_command
from pointing_judges import PointingJudge, knows

from assay.config import load_config
from assay.testing import serve_in_background
from pipelines.spatial_tasks.evaluation.metrics import named_metrics
from pipelines.spatial_tasks.zero_shot import TASKS, ZeroShotSettings

PAGE = "docs/spatial_tasks.md"
#: What makes a command small: what is shown is that it is right.
SMALLER = {
    "miniature.x3": "--scenes 5",
    "miniature.recipes": "--minutes 0.01 --examples 8 --batch 2 --held-out 2",
    "spatial check": "batch_size=2",
    "train spatial": "batch_size=2 epochs=null max_steps=1 evaluate_every_steps=0",
}
TRAINS = ("miniature.recipes", "spatial check", "train spatial")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serve_in_background([PointingJudge(name, knows) for name in ("correspondence", "difference")]) as server:
        yield server.target


def test_every_command_of_the_page_runs(tmp_path: Path, target: str) -> None:
    home = make_home(tmp_path)
    commands = [command for command in commands_of(PAGE) if " serve " not in command and not trains(command)]
    assert len(commands) == 4
    for command in commands:
        command = command.replace("localhost:50055", target)
        run(command + (f" --target {target}" if "zero-shot" in command else ""), home)
    table = (home / "runs/eval_spatial_x3/zero_shot.md").read_text()
    assert all(title in table for title in TASKS)
    for name in TASKS.values():
        found = json.loads((home / f"runs/eval_spatial_x3/{name}.json").read_text())
        assert list(found["metrics"]) == list(named_metrics([]))
        assert found["robust"]["accuracy"]["value"] == (1 if found["questions"] else None)
        assert (home / f"runs/eval_spatial_x3/{name}.html").exists()


@pytest.mark.slow
def test_the_training_of_the_page_runs(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    commands = commands_of(PAGE)
    assert sum(map(trains, commands)) == 3
    for command in commands:
        if trains(command) or "miniature.x3" in command or "spatial build" in command:
            run(command, home)
    assert (home / "runs/spatial_zero_shot/model.safetensors").exists()
    assert (home / "runs/miniature_spatial/model/model.safetensors").exists()


def trains(command: str) -> bool:
    return any(name in command for name in TRAINS)


def run(command: str, home: Path) -> None:
    command += "".join(f" {flags}" for name, flags in SMALLER.items() if name in command)
    run_command(command, home)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/pipelines").glob("*_spatial.yaml")), ids=lambda path: path.stem
)
def test_configurations_are_valid_and_call_the_services_port(path: Path) -> None:
    settings = load_config(ZeroShotSettings, path)
    assert settings.data_root is not None
    assert settings.targets == ("localhost:50055",)
    assert settings.compat == (path.stem == "x3_spatial")
