"""docs/quickstart.md, command by command, with a served GenEval and less of everything; and that of docs/faq.md."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_commands import commands_of, make_home, run_command
from served_geneval import serve_geneval

SHORT = {
    " train ": "run.epochs=1 run.threads=1 run.trackers=[] evaluation.num_images=2 evaluation.num_steps=2 "
    "sampling.groups_per_epoch=4 sampling.group_size=2 sampling.num_steps=5 'rewards.0.targets=[{target}]'",
    " evaluate ": "--target {target} --num_images 1 max_prompts=4 num_steps=2",
    " score ": "--target {target}",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def target(home: Path) -> Iterator[str]:
    with serve_geneval(home) as address:
        yield address


def run(command: str, home: Path, target: str) -> str:
    [further] = [further for verb, further in SHORT.items() if verb in command]
    return run_command(f"{command} {further.format(target=target)}", home).stdout


def test_every_command_of_the_page_runs(home: Path, target: str) -> None:
    commands = [command for command in commands_of("docs/quickstart.md") if " serve " not in command]
    assert len(commands) == 4
    said = [run(command, home, target) for command in commands]
    assert "counting = 1.0000" in said[0] or "geneval = 1.0000" in said[0]
    assert (home / "runs/miniature_fast/lora/pytorch_lora_weights.safetensors").is_file()
    summary = json.loads((home / "runs/geneval/fast/summary.json").read_text())
    assert summary["scored"] == summary["comparison"]["pairs"] == 4
    assert (home / "runs/geneval/fast/report.html").is_file()


def test_the_questions_command_says_why(home: Path, target: str) -> None:
    [command] = commands_of("docs/faq.md")
    [answer] = json.loads(run(command, home, target))
    assert answer["score"]["value"] < 1
    assert "wanted 4 apples, found 3" in answer["score"]["evidence"]["reason"]
