"""docs/training_at_scale.md, command by command, where no GPU is needed; its three runs have the same numbers."""

import json
from pathlib import Path

import pytest
from page_commands import commands_of, make_home, run_command

# Fewer pictures and steps: what is shown is that the commands are right.
SHORT = "algorithm.optimizer_steps_per_epoch=2 algorithm.images_per_step=4 algorithm.micro_batch_size=2"


@pytest.mark.slow
def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    commands = commands_of("docs/training_at_scale.md")
    assert len(commands) == 4
    for command in commands:
        command = f"{command} {SHORT}" if " train " in command else command.replace("--sft 64", "--sft 8")
        run_command(command, home)
    one, two, sharded = (_numbers(home / "runs" / name / "metrics.jsonl") for name in ("one", "two", "sharded"))
    assert len(one) == 4
    assert two == pytest.approx(one, rel=1e-3)
    assert sharded == pytest.approx(one, rel=1e-3)


def _numbers(log: Path) -> list[float]:
    """Loss and gradient norm of each epoch."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line[name] for line in lines for name in ("loss", "grad_norm")]
