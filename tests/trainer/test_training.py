"""Whole training runs in processes of their own, against a real gRPC server: resume, two processes, failures, outputs.

The reward here is how red a picture is: any random pipeline can be trained on it, and it never ties.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from redness import Redness
from safetensors.torch import load_file

from assay.outcomes import Outcome, Scored
from assay.serving.scorer import Sample, ScorerInfo
from assay.testing import FaultInjector, serve_in_background
from generators.sd3 import load_pipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serve_in_background([Redness()]) as running:
        yield running.target


def _config(folder: Path, model: Path, target: str, **changes: object) -> Path:
    """The miniature's configuration, cut down to seconds."""
    config = yaml.safe_load((ROOT / "configs/train/miniature_counting.yaml").read_text())
    config["model"] |= {"path": str(model), "lora_rank": 4, "lora_alpha": 8}
    config["sampling"] |= {
        "num_steps": 4,
        "guidance_scale": 1.5,
        "group_size": 4,
        "groups_per_epoch": 4,
        "micro_batch_size": 4,
    }
    config["algorithm"] |= {"optimizer_steps_per_epoch": 2}
    config["evaluation"] |= {"num_steps": 4, "num_images": 8, "gallery_prompts": 4, "accuracy": "red/strict_correct"}
    config["rewards"] = [{"name": "red", "scorer": "redness", "targets": [target]}]
    config["run"] |= {"output": str(folder / "run"), "epochs": 3, "save_every_epochs": 1, "threads": 1}
    config["run"] |= {"service_wait_s": 5}
    for name, value in changes.items():
        section, field = name.split("__")
        config[section][field] = value
    path = folder / "config.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


def _start(config: Path, processes: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "assay.cli", "train", str(config)]
    if processes > 1:
        launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, "-m", *launch, "-m", "assay.cli", "train", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _run(config: Path, processes: int = 1) -> str:
    process = _start(config, processes)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


def _metrics(folder: Path) -> list[dict]:
    """What was logged of each epoch, less what is measured in seconds."""
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_s") and k != "minutes"} for line in lines]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, server: str) -> Path:
    """A run of three epochs without any trouble."""
    folder = tmp_path_factory.mktemp("straight")
    _run(_config(folder, tiny_model, server))
    return folder


def test_a_run_leaves_lora_table_gallery_and_curve(straight: Path, tiny_model: Path) -> None:
    run = straight / "run"
    for name in ("table.md", "results.json", "gallery.png", "reward_curve.png"):
        assert (run / name).stat().st_size > 0
    assert list((run / "assay").glob("events.out.tfevents*"))
    metrics = _metrics(straight)
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    assert all(line["first_ratio_deviation"] == 0 for line in metrics)
    assert metrics[-1]["global_step"] == 6
    results = json.loads((run / "results.json").read_text())
    assert results["before"]["images"] == results["after"]["images"] == 8
    table = (run / "table.md").read_text()
    assert f"{results['after']['accuracy']:.3f}" in table

    for folder in run.glob("evaluations/epoch-*"):
        assert len(list(folder.glob("*.png"))) == 4

    # the saved LoRA, loaded as users load it, is the averaged adapter of the last checkpoint
    averages = load_file(run / "checkpoints/epoch-000003/ema.safetensors")
    saved = load_file(run / "lora/pytorch_lora_weights.safetensors")
    for name, value in averages.items():
        assert torch.equal(saved["transformer." + name.replace(".default", "")], value)
    pipeline = load_pipeline(str(tiny_model))
    pipeline.set_progress_bar_config(disable=True)

    def picture() -> np.ndarray:
        made = pipeline(
            "a photo of two cups",
            height=64,
            width=64,
            num_inference_steps=3,
            guidance_scale=1.0,
            max_sequence_length=0,
            generator=torch.Generator().manual_seed(0),
        )
        return np.asarray(made.images[0]).astype(int)

    plain = picture()
    pipeline.load_lora_weights(str(run / "lora"))
    assert np.abs(picture() - plain).max() > 0


@pytest.mark.parametrize("save_every", [1, 2])
def test_a_killed_run_resumes_to_the_same_bits(
    straight: Path, tmp_path: Path, tiny_model: Path, server: str, save_every: int
) -> None:
    """Killed in the second epoch: after a checkpoint, or before the first one."""
    config = _config(tmp_path, tiny_model, server, run__save_every_epochs=save_every)
    process = _start(config)
    deadline = time.monotonic() + 120
    seen = "checkpoints/epoch-000001" if save_every == 1 else "metrics.jsonl"
    while not (tmp_path / "run" / seen).exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert ("resuming after" in _run(config)) == (save_every == 1)
    assert _metrics(tmp_path) == _metrics(straight)
    for name in ("run/lora/pytorch_lora_weights.safetensors", "run/checkpoints/epoch-000003/optimizer.safetensors"):
        resumed, whole = load_file(tmp_path / name), load_file(straight / name)
        assert resumed.keys() == whole.keys()
        assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_a_finished_run_is_not_trained_again_and_another_is_not_mixed_into_it(
    straight: Path, tmp_path: Path, tiny_model: Path, server: str
) -> None:
    before = _metrics(straight)
    assert "before" in _run(_config(tmp_path, tiny_model, server, run__output=str(straight / "run")))
    assert _metrics(straight) == before
    other = _config(tmp_path, tiny_model, server, run__output=str(straight / "run"), evaluation__num_images=7)
    process = _start(other)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "holds a run with evaluation.num_images = 8, not 7" in output


def test_two_processes_give_the_numbers_of_one(straight: Path, tmp_path: Path, tiny_model: Path, server: str) -> None:
    assert "on 2 processes, each" in _run(_config(tmp_path, tiny_model, server), processes=2)
    for two, one in zip(_metrics(tmp_path), _metrics(straight), strict=True):
        assert two["reward_mean"] == pytest.approx(one["reward_mean"], abs=1e-4)
        assert two["first_ratio_deviation"] == 0
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)  # a sum, not a mean, over processes
        assert two["kl"] == pytest.approx(one["kl"], rel=0.05, abs=1e-9)
    one, two = (
        load_file(folder / "run/checkpoints/epoch-000003/adapter.safetensors") for folder in (straight, tmp_path)
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=0)


def test_without_a_service_training_stops_with_one_message(tmp_path: Path, tiny_model: Path) -> None:
    process = _start(_config(tmp_path, tiny_model, "localhost:1", run__service_wait_s=1))
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "localhost:1" in output
    assert "Traceback" not in output
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_lost_requests_and_replies_change_nothing(straight: Path, tmp_path: Path, tiny_model: Path) -> None:
    faults = FaultInjector(seed=3, request_lost=0.3, reply_lost=0.3)
    with serve_in_background([Redness()], faults=faults) as running:
        _run(_config(tmp_path, tiny_model, running.target))
    assert faults.counts["request_lost"] > 0
    assert faults.counts["reply_lost"] > 0
    assert _metrics(tmp_path) == _metrics(straight)


def test_images_without_score_drop_their_group_and_are_counted(tmp_path: Path, tiny_model: Path) -> None:
    with serve_in_background([Redness(fail_every=16)]) as running:
        config = _config(tmp_path, tiny_model, running.target, run__epochs=1)
        values = yaml.safe_load(config.read_text())
        values["rewards"][0]["on_failure"] = "drop_group"
        config.write_text(yaml.safe_dump(values))
        _run(config)
    (line,) = _metrics(tmp_path)
    assert line["unscored"] == 1
    assert line["groups_dropped"] == 1
    assert line["filled"] == 0
    assert "unscored" in (tmp_path / "run/table.md").read_text()  # some of the held-out images failed too


def test_filled_scores_are_counted(tmp_path: Path, tiny_model: Path) -> None:
    with serve_in_background([Redness(fail_every=5)]) as running:
        config = _config(tmp_path, tiny_model, running.target, run__epochs=1)
        values = yaml.safe_load(config.read_text())
        values["rewards"][0] |= {"on_failure": "fill", "fill_value": 0.0}
        config.write_text(yaml.safe_dump(values))
        _run(config)
    (line,) = _metrics(tmp_path)
    assert line["filled"] >= 3
    assert line["unscored"] == 0


class Equal(Redness):
    """Everything is worth the same: nothing to learn."""

    def _one(self, sample: Sample) -> Outcome:
        return Scored(1 / 3, {"strict_correct": 0.0})


def test_with_nothing_to_learn_nothing_moves(tmp_path: Path, tiny_model: Path) -> None:
    with serve_in_background([Equal()]) as running:
        _run(_config(tmp_path, tiny_model, running.target, run__epochs=1))
    (line,) = _metrics(tmp_path)
    assert line["zero_std_ratio"] == 1
    assert line["global_step"] == 0
    assert line["loss"] is None


def test_a_changed_reward_is_refused_on_resume(straight: Path, tmp_path: Path, tiny_model: Path) -> None:
    class Other(Redness):
        @property
        def info(self) -> ScorerInfo:
            return ScorerInfo("redness", "2" * 16, (0.0, 1.0), True, ("GenEvalTask",))

    with serve_in_background([Other()]) as running:
        config = _config(tmp_path, tiny_model, running.target, run__output=str(straight / "run"), run__epochs=4)
        process = _start(config)
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "the rewards have changed" in output
    assert len(_metrics(straight)) == 3
