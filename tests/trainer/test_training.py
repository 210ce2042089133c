"""Whole training runs against a real gRPC server, in their own processes where they are killed.

The reward here is how red a picture is: any random pipeline can be trained on it, and it never ties.
"""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from redness import Redness
from safetensors.torch import load_file
from whole_runs import finish_run, logged_metrics, start_run, write_config

from assay.outcomes import Outcome, Scored
from assay.serving.scorer import Sample, ScorerInfo
from assay.testing import FaultInjector, serve_in_background
from generators.sd3 import load_pipeline
from trainer.cli import train


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serve_in_background([Redness()]) as running:
        yield running.target


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, server: str) -> Path:
    """A run of three epochs without any trouble."""
    folder = tmp_path_factory.mktemp("straight")
    finish_run(write_config(folder, tiny_model, server))
    return folder


def test_a_run_leaves_lora_table_gallery_and_curve(straight: Path, tiny_model: Path) -> None:
    run = straight / "run"
    for name in ("table.md", "results.json", "gallery.png", "reward_curve.png"):
        assert (run / name).stat().st_size > 0
    assert list((run / "assay").glob("events.out.tfevents*"))
    metrics = logged_metrics(straight)
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


@pytest.mark.parametrize("save_every", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_killed_run_resumes_to_the_same_bits(
    straight: Path, tmp_path: Path, tiny_model: Path, server: str, save_every: int
) -> None:
    """Killed in the second epoch: after a checkpoint, or before the first one."""
    config = write_config(tmp_path, tiny_model, server, run__save_every_epochs=save_every)
    process = start_run(config)
    deadline = time.monotonic() + 120
    seen = "checkpoints/epoch-000001" if save_every == 1 else "metrics.jsonl"
    while not (tmp_path / "run" / seen).exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert ("resuming after" in finish_run(config)) == (save_every == 1)
    assert logged_metrics(tmp_path) == logged_metrics(straight)
    for name in ("run/lora/pytorch_lora_weights.safetensors", "run/checkpoints/epoch-000003/optimizer.safetensors"):
        resumed, whole = load_file(tmp_path / name), load_file(straight / name)
        assert resumed.keys() == whole.keys()
        assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_a_finished_run_is_not_trained_again_and_another_is_not_mixed_into_it(
    straight: Path, tmp_path: Path, tiny_model: Path, server: str
) -> None:
    before = logged_metrics(straight)
    assert "before" in finish_run(write_config(tmp_path, tiny_model, server, run__output=str(straight / "run")))
    assert logged_metrics(straight) == before
    other = write_config(tmp_path, tiny_model, server, run__output=str(straight / "run"), evaluation__num_images=7)
    process = start_run(other)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "holds a run with evaluation.num_images = 8, not 7" in output


def test_without_a_service_training_stops_with_one_message(tmp_path: Path, tiny_model: Path) -> None:
    process = start_run(write_config(tmp_path, tiny_model, "localhost:1", run__service_wait_s=1))
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "localhost:1" in output
    assert "Traceback" not in output
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_lost_requests_and_replies_change_nothing(straight: Path, tmp_path: Path, tiny_model: Path) -> None:
    faults = FaultInjector(seed=3, request_lost=0.3, reply_lost=0.3)
    with serve_in_background([Redness()], faults=faults) as running:
        assert train(write_config(tmp_path, tiny_model, running.target)) == 0
    assert faults.counts["request_lost"] > 0
    assert faults.counts["reply_lost"] > 0
    assert logged_metrics(tmp_path) == logged_metrics(straight)


def test_images_without_score_drop_their_group_and_are_counted(tmp_path: Path, tiny_model: Path) -> None:
    with serve_in_background([Redness(fail_every=16)]) as running:
        config = write_config(tmp_path, tiny_model, running.target, run__epochs=1)
        values = yaml.safe_load(config.read_text())
        values["rewards"][0]["on_failure"] = "drop_group"
        config.write_text(yaml.safe_dump(values))
        assert train(config) == 0
    (line,) = logged_metrics(tmp_path)
    assert line["unscored"] == 1
    assert line["groups_dropped"] == 1
    assert line["filled"] == 0
    assert "unscored" in (tmp_path / "run/table.md").read_text()  # some of the held-out images failed too


def test_filled_scores_are_counted(tmp_path: Path, tiny_model: Path) -> None:
    with serve_in_background([Redness(fail_every=5)]) as running:
        config = write_config(tmp_path, tiny_model, running.target, run__epochs=1)
        values = yaml.safe_load(config.read_text())
        values["rewards"][0] |= {"on_failure": "fill", "fill_value": 0.0}
        config.write_text(yaml.safe_dump(values))
        assert train(config) == 0
    (line,) = logged_metrics(tmp_path)
    assert line["filled"] >= 3
    assert line["unscored"] == 0


class Equal(Redness):
    """Everything is worth the same: nothing to learn."""

    def _one(self, sample: Sample) -> Outcome:
        return Scored(1 / 3, {"strict_correct": 0.0})


def test_with_nothing_to_learn_nothing_moves(tmp_path: Path, tiny_model: Path) -> None:
    with serve_in_background([Equal()]) as running:
        assert train(write_config(tmp_path, tiny_model, running.target, run__epochs=1)) == 0
    (line,) = logged_metrics(tmp_path)
    assert line["zero_std_ratio"] == 1
    assert line["global_step"] == 0
    assert line["loss"] is None


def test_a_changed_reward_is_refused_on_resume(straight: Path, tmp_path: Path, tiny_model: Path) -> None:
    class Other(Redness):
        @property
        def info(self) -> ScorerInfo:
            return ScorerInfo("redness", "2" * 16, (0.0, 1.0), True, ("GenEvalTask",))

    with serve_in_background([Other()]) as running:
        config = write_config(tmp_path, tiny_model, running.target, run__output=str(straight / "run"), run__epochs=4)
        process = start_run(config)
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "the rewards have changed" in output
    assert len(logged_metrics(straight)) == 3


@pytest.mark.slow
def test_all_processes_stop_where_no_image_has_a_score(tmp_path: Path, tiny_model: Path) -> None:
    with serve_in_background([Redness(fail_every=1)]) as running:
        config = write_config(tmp_path, tiny_model, running.target, evaluation=None)
        values = yaml.safe_load(config.read_text())
        values["rewards"][0]["on_failure"] = "drop_group"
        config.write_text(yaml.safe_dump(values))
        process = start_run(config, processes=2)
        output, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    assert output.count("no image of epoch 1 has a score") == 2
