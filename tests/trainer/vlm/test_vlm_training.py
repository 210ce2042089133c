"""Verifiers learn, go on after a kill, are the same on two processes, and are served as they were measured."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tiny_verifier import PROMPT, progress, save_picture, save_rows
from typer.testing import CliRunner

from assay import cli
from assay.client import RewardClient
from assay.config import load_config
from assay.errors import ConfigError
from assay.outcomes import Scored
from assay.tasks import OutcomeTask, PotentialTask
from assay.testing import serve_in_background
from services.verifier.service import build_scorers
from trainer.vlm.config import FineTuningConfig
from trainer.vlm.fine_tuning import fine_tune

ROOT = Path(__file__).parents[3]


@pytest.fixture
def settings(tiny_base: Path, orm_data: Path, orm_held_out: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(tiny_base),
        "data": [{"path": str(orm_data)}],
        "held_out": [{"path": str(orm_held_out)}],
        "output": str(tmp_path / "out"),
        "max_steps": 24,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "log_every_steps": 1,
        "trackers": [],
        "threads": 1,
    }


def run(settings: dict[str, Any]) -> Any:
    return fine_tune(FineTuningConfig.model_validate(settings))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def served(**backend: Any) -> list[Any]:
    """The verifier service's scorers, with the configuration that it ships with."""
    block = yaml.safe_load((ROOT / "configs/services/verifier.yaml").read_text())["scorer"]
    block["backend"] |= {"device": "cpu", **backend}
    return build_scorers(block)


def asked(scorers: list[Any], answers: list[dict[str, Any]]) -> list[float]:
    """p of the same questions, over gRPC."""
    names = {"orm": "orm", "clarity": "parm-clarity", "potential": "parm-potential"}
    with serve_in_background(scorers) as server, RewardClient([server.target]) as client:
        given = []
        for one in answers:
            task = OutcomeTask() if one["kind"] == "orm" else PotentialTask(15, 18)
            pixels = np.asarray(Image.open(one["images"][0]))
            (outcome,) = client.score([pixels], scorer=names[one["kind"]], prompts=[PROMPT], tasks=[task])
            assert isinstance(outcome, Scored)
            given.append(outcome.value)
    return given


def test_it_learns_and_is_served_with_the_p_that_it_was_measured_with(settings: dict[str, Any], tmp_path: Path) -> None:
    run({**settings, "evaluate_every_steps": 30, "max_steps": 60})
    out = tmp_path / "out"
    losses = [line["loss"] for line in lines(out / "metrics.jsonl") if "loss" in line]
    assert len(losses) == 60
    assert losses[-1] < 0.1 * losses[0]
    found = lines(out / "held_out.jsonl")
    assert [line["step"] for line in found] == [0, 30, 60]
    assert found[-1]["orm"] == {"questions": 4, "share_of_yes": 0.5, "agreement": 1.0, "auc": 1.0}
    answers = lines(out / "held_out_answers.jsonl")
    assert all(one["p"] > 0.9 if one["label"] == "yes" else one["p"] < 0.1 for one in answers)
    assert asked(served(model=str(out / "model")), answers) == pytest.approx([one["p"] for one in answers], abs=1e-4)
    assert not list((out / "model").glob("*.bin"))


def test_a_lora_learns_both_turns_and_is_served(settings: dict[str, Any], tmp_path: Path) -> None:
    rows = [
        progress(
            str(n), save_picture(tmp_path, n, red=n % 2 == 0), ["no"] if n == 0 else ["yes", "no" if n % 2 else "yes"]
        )
        for n in range(5)
    ]
    data = [{"path": str(save_rows(tmp_path / "parm.json", rows))}]
    run({**settings, "data": data, "held_out": data, "lora": {"rank": 16, "alpha": 32}, "max_steps": 60})
    out = tmp_path / "out"
    (_, found) = lines(out / "held_out.jsonl")
    assert {kind: found[kind]["questions"] for kind in ("clarity", "potential")} == {"clarity": 5, "potential": 4}
    losses = [line["loss"] for line in lines(out / "metrics.jsonl") if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    answers = lines(out / "held_out_answers.jsonl")
    scorers = served(model=settings["model"], adapter=str(out / "adapter"))
    assert asked(scorers, answers) == pytest.approx([one["p"] for one in answers], abs=1e-4)


def test_the_vision_tower_stays_or_learns_at_its_own_rate(settings: dict[str, Any], tiny_base: Path) -> None:
    before = load_file(tiny_base / "model.safetensors")
    tower = {name for name in before if "vision_tower" in name}
    settings |= {"max_steps": 3, "held_out": []}
    trainer = run({**settings, "freeze_vision": True, "save_dtype": "float16"})
    after = load_file(Path(settings["output"]) / "model/model.safetensors")
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert changed
    assert not changed & tower
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    assert json.loads((Path(settings["output"]) / "model/config.json").read_text())["dtype"] == "float16"

    trainer = run({**settings, "vision_learning_rate": 1e-4, "output": f"{settings['output']}-2"})
    groups = trainer.optimizer.param_groups
    assert {group["initial_lr"] for group in groups} == {1e-4, 3e-3}
    at_its_own = [parameter for group in groups if group["initial_lr"] == 1e-4 for parameter in group["params"]]
    assert sum(one.numel() for one in at_its_own) == sum(before[name].numel() for name in tower)

    # A LoRA leaves it alone, too.
    trainer = run({**settings, "freeze_vision": True, "lora": {"rank": 2}, "output": f"{settings['output']}-3"})
    adapted = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert adapted
    assert not [name for name in adapted if "vision_tower" in name]


def test_a_killed_run_goes_on_to_the_same_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    """Optimizer, schedule, order of the data and dropout: kill -9 after a checkpoint, in a process of its own."""
    settings |= {"batch_size": 3, "save_every_steps": 4, "lora": {"rank": 4, "dropout": 0.2}, "held_out": []}
    run({**settings, "output": str(tmp_path / "whole")})
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    process = start([sys.executable, "-m", "assay.cli", "train", "orm", str(config)])
    out = tmp_path / "out"
    until = time.monotonic() + 240
    while not (out / "checkpoint-8/complete").exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "adapter").exists()
    (out / "checkpoint-99").mkdir()  # cut off while it was written
    assert run(settings).state.global_step == 24
    one, other = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    steps = [line["step"] for line in lines(out / "metrics.jsonl") if "loss" in line]
    assert steps == list(range(1, 25))
    assert [line["loss"] for line in lines(out / "metrics.jsonl") if "loss" in line] == [
        line["loss"] for line in lines(tmp_path / "whole/metrics.jsonl") if "loss" in line
    ]


def test_two_processes_learn_what_one_does(settings: dict[str, Any], tmp_path: Path) -> None:
    """On the same pictures in a step: losses to 1e-5 and gradient norms to 1e-4 of their size, p to 1e-4."""
    settings |= {"max_steps": 4, "learning_rate": 1e-3}
    run({**settings, "batch_size": 2, "gradient_accumulation": 2, "output": str(tmp_path / "one")})
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**settings, "batch_size": 2}))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = start([*torchrun, "-m", "assay.cli", "train", "orm", str(config)])
    assert process.wait(timeout=280) == 0
    logs = [[line for line in lines(tmp_path / f"{name}/metrics.jsonl") if "loss" in line] for name in ("one", "out")]
    assert [line["loss"] for line in logs[1]] == pytest.approx([line["loss"] for line in logs[0]], rel=1e-5)
    assert [line["grad_norm"] for line in logs[1]] == pytest.approx([line["grad_norm"] for line in logs[0]], rel=1e-4)
    answers = [lines(tmp_path / f"{name}/held_out_answers.jsonl") for name in ("one", "out")]
    assert [one["id"] for one in answers[1]] == [one["id"] for one in answers[0]]
    assert [one["p"] for one in answers[1]] == pytest.approx([one["p"] for one in answers[0]], abs=1e-4)


def test_a_whole_model_goes_on_from_its_checkpoint_and_a_finished_run_is_not_run_again(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings |= {"max_steps": 6, "save_every_steps": 2, "batch_size": 3}
    run(settings)
    out = tmp_path / "out"
    weights, evaluations = load_file(out / "model/model.safetensors"), lines(out / "held_out.jsonl")
    shutil.rmtree(out / "checkpoint-6")
    for _ in ("from the fourth step", "not at all"):
        shutil.rmtree(out / "model")
        run({**settings, "log_every_steps": 2})
        again = load_file(out / "model/model.safetensors")
        assert all(torch.equal(again[name], weights[name]) for name in weights)
        assert lines(out / "held_out.jsonl") == evaluations
    before_an_update = json.loads((out / "run.json").read_text())
    del before_an_update["max_grad_norm"]
    (out / "run.json").write_text(json.dumps(before_an_update))
    run(settings)
    with pytest.raises(ConfigError, match=r"holds a run with max_grad_norm = None, not 2.0: choose another output"):
        run({**settings, "max_grad_norm": 2.0})
    with pytest.raises(ConfigError, match=r"holds a run with learning_rate = 0.003, not 0.1: choose another output"):
        run({**settings, "learning_rate": 0.1})
    measured_on = Path(settings["held_out"][0]["path"])
    measured_on.write_text(json.dumps(json.loads(measured_on.read_text())[1:]))
    with pytest.raises(ConfigError, match=r"holds a run with content of .*: choose another output"):
        run(settings)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 1.0}, "give either epochs or max_steps"),
        ({"freeze_vision": True, "vision_learning_rate": 1e-6}, "vision_learning_rate with freeze_vision"),
        ({"held_out": [], "evaluate_every_steps": 3}, "evaluate_every_steps without held_out"),
        ({"lora": {"rank": 2}, "save_dtype": "float16"}, "save_dtype with lora"),
        ({"learning_rat": 1}, "unknown field learning_rat .did you mean learning_rate"),
        ({"data": [{"path": "x.json", "sampling": "half"}]}, r"data.0.sampling = 'half'"),
        ({"data": []}, "data = "),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: dict[str, Any], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**settings, **changes}))
    with pytest.raises(ConfigError, match=said):
        load_config(FineTuningConfig, path)


def test_labels_that_are_neither_yes_nor_no_cannot_be_measured(settings: dict[str, Any], tmp_path: Path) -> None:
    rows = [progress("odd", save_picture(tmp_path, 0, red=True), ["maybe"])]
    held_out = [{"path": str(save_rows(tmp_path / "held.json", rows))}]
    with pytest.raises(ConfigError, match="conversation 'odd' has the answer 'maybe'; allowed: yes, no"):
        run({**settings, "held_out": held_out})


def test_train_takes_a_configuration_or_a_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[tuple[Any, ...]] = []
    monkeypatch.setattr(cli, "hand_over", lambda *arguments: handed.append(arguments) or 0)
    for command in ("orm", "parm x.yaml a=1 b.c=2", "orm a=1", "configs/train/miniature_fast.yaml a=1", "./orm"):
        assert CliRunner().invoke(cli.app, ["train", *command.split()]).exit_code == 0
    assert handed == [
        ("train orm", None, []),
        ("train parm", Path("x.yaml"), ["a=1", "b.c=2"]),
        ("train orm", None, ["a=1"]),
        ("train", Path("configs/train/miniature_fast.yaml"), ["a=1"]),
        ("train", Path("orm"), []),
    ]


def start(command: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment)
