"""docs/training.md, command by command, with a served GenEval: each run cut down to one epoch."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_commands import commands_of, make_home, run_command
from served_geneval import serve_geneval

FEWER = {"--sft 2000": "--sft 20", "--pairs 400": "--pairs 8", "--edits 200": "--edits 8"}
SHORT = ["run.epochs=1", "run.threads=1", "run.trackers=[]", "evaluation.num_images=2", "evaluation.num_steps=2"]
ONLINE = ["sampling.groups_per_epoch=4", "sampling.group_size=2", "sampling.num_steps=5"]
OFFLINE = {
    "miniature_sft": ["algorithm.optimizer_steps_per_epoch=2", "algorithm.images_per_step=4"],
    "miniature_dpo_offline": ["algorithm.optimizer_steps_per_epoch=2", "algorithm.pairs_per_epoch=4"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def target(home: Path) -> Iterator[str]:
    with serve_geneval(home) as address:
        yield address


def test_every_command_of_the_page_runs(home: Path, target: str) -> None:
    commands = [command for command in commands_of("docs/training.md") if " serve " not in command]
    assert len(commands) == 7
    for command in commands:
        run_command(_shortened(command, target), home)
    for run in ("miniature_fast", "miniature_sft", "after_sft", "miniature_dpo_offline", "miniature_klein_editing"):
        assert (home / "runs" / run / "lora/pytorch_lora_weights.safetensors").is_file()
        assert (home / "runs" / run / "table.md").is_file()
    fused = json.loads((home / "runs/after_sft/run.json").read_text())
    assert fused["model.cold_start_lora"] == "runs/miniature_sft"


def _shortened(command: str, target: str) -> str:
    """The page's command on this test's service, with less of everything: what is shown is that it is right."""
    for long, short in FEWER.items():
        command = command.replace(long, short)
    if " train " not in command:
        return command
    config = Path(command.split()[2]).stem
    settings = [*SHORT, *OFFLINE.get(config, ONLINE), f"'rewards.0.targets=[{target}]'"]
    return " ".join([command, *settings])
