"""docs/evaluation.md, command by command, with a served GenEval; only what needs weights from the hub is left out."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from page_commands import ROOT, commands_of, make_home, run_command
from PIL import Image
from served_geneval import serve_geneval

from generators.sd3 import SD3Generator

PAGE = "docs/evaluation.md"
ELSEWHERE = ("stabilityai/", ".venv-mmdet/", " serve ")  # weights of the hub, another environment, the fixture below


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a training run's LoRA in it."""
    folder = make_home(tmp_path_factory.mktemp("home"))
    generator = SD3Generator.from_pretrained(
        str(ROOT / "miniature/weights/sd3"), height=64, width=64, max_sequence_length=0
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in generator.add_lora(rank=2, alpha=4):
            parameter.copy_(torch.randn_like(parameter) * 0.15)
    (folder / "runs/miniature_counting").mkdir(parents=True)
    generator.save_lora(folder / "runs/miniature_counting/lora")
    return folder


@pytest.fixture(scope="module")
def target(home: Path) -> Iterator[str]:
    with serve_geneval(home) as address:
        yield address


def test_every_command_of_the_page_runs(home: Path, target: str) -> None:
    commands = [command for command in commands_of(PAGE) if not any(word in command for word in ELSEWHERE)]
    assert len(commands) == 5
    for command in commands:
        # The page's service, and fewer prompts and images: what is shown is that the commands are right.
        command = command.replace("localhost:50051", target)
        if " evaluate " in command:
            command += f" --target {target} --num_images 2 max_prompts=20 num_steps=4"
        run_command(command, home)
    base, tuned, again = (home / "runs/geneval" / name for name in ("base", "tuned", "again"))
    numbers = json.loads((base / "summary.json").read_text())
    assert numbers["scored"] == 40
    assert json.loads((tuned / "summary.json").read_text())["comparison"]["pairs"] == 40
    # The same pictures, the same numbers; the one folder knows of 77 prompts more, which were not asked for.
    assert numbers.pop("prompt_states") == {"planned": 97, "done": 20, "failed": 0}
    other = json.loads((again / "summary.json").read_text())
    assert other.pop("prompt_states") == {"planned": 20, "done": 20, "failed": 0}
    assert other == numbers
    assert len((home / "runs/data/counting_10/train.jsonl").read_text().splitlines()) == 7500
    assert Image.open(home / "runs/demo/comparison.png").height > 300
    assert json.loads((home / "runs/demo/results.json").read_text())["scores"]["tuned"]
