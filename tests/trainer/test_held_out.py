"""What a run says of itself on held-out prompts: unseen judges, the best checkpoint, and when to stop."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from accelerate import Accelerator
from redness import Redness
from safetensors.torch import load_file

from assay.errors import ConfigError
from assay.outcomes import Outcome, Scored
from assay.rewards import RewardBatch
from assay.serving.scorer import Sample, ScorerInfo
from assay.testing import serve_in_background
from generators.sd3 import SD3Generator
from trainer.cli import train
from trainer.config import EvaluationConfig
from trainer.embeddings_cache import PromptEncoder
from trainer.evaluation import evaluate
from trainer.held_out import HeldOut
from trainer.prompts import PromptTask, draw_evaluation

ROOT = Path(__file__).parents[2]


class Scripted(Redness):
    """Held-out accuracies that follow a script, whatever is drawn: `accuracies[n]` at the n-th evaluation."""

    def __init__(self, accuracies: Sequence[float], images: int) -> None:
        super().__init__()
        self._accuracies, self._images, self._judged = accuracies, images, 0

    @property
    def info(self) -> ScorerInfo:
        return ScorerInfo("scripted", "4" * 16, (0.0, 1.0), True, ("GenEvalTask",))

    def _one(self, sample: Sample) -> Outcome:
        if sample.id == "warm-up":
            return Scored(0.0, {"right": 0.0})
        evaluation = min(self._judged // self._images, len(self._accuracies) - 1)
        self._judged += 1
        return Scored(1 - self._accuracies[evaluation], {"right": self._accuracies[evaluation]})


@pytest.fixture(scope="module")
def red() -> Iterator[str]:
    with serve_in_background([Redness()]) as running:
        yield running.target


def _train(folder: Path, model: Path, red: str, judge: str, **evaluation: Any) -> Path:
    """Six epochs of one optimizer step, evaluated after each, by `red` and by a judge that training does not see."""
    config = {
        "model": {"path": str(model), "height": 64, "width": 64, "max_sequence_length": 0, "lora_rank": 2},
        "prompts": {name: str(ROOT / "configs/train/prompts/miniature_counting.jsonl") for name in ("train", "test")},
        "sampling": {
            "num_steps": 2,
            "guidance_scale": 1.0,
            "group_size": 2,
            "groups_per_epoch": 2,
            "micro_batch_size": 4,
        },
        "algorithm": {"name": "flow_grpo", "optimizer_steps_per_epoch": 1, "kl_weight": 0, "clip_range": 0.1},
        "optimizer": {"learning_rate": 0.001},
        "ema": {"enabled": False},
        "evaluation": {
            "num_steps": 2,
            "guidance_scale": 1.0,
            "num_images": 4,
            "every_epochs": 1,
            "gallery_prompts": 1,
            "accuracy": "unseen/right",
            "rewards": [{"name": "unseen", "scorer": "scripted", "targets": [judge]}],
            **evaluation,
        },
        "rewards": [{"name": "red", "scorer": "redness", "targets": [red]}],
        "run": {"output": str(folder / "run"), "epochs": 6, "trackers": [], "threads": 1},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert train(path) == 0
    return folder / "run"


def test_the_best_lora_is_kept_and_patience_ends_the_run(tmp_path: Path, tiny_model: Path, red: str) -> None:
    """Best after two epochs; two evaluations without a better one are allowed."""
    with serve_in_background([Scripted([0.2, 0.3, 0.6, 0.5, 0.6, 0.9], images=4)]) as judge:
        run = _train(tmp_path, tiny_model, red, judge.target, patience=2)
        epochs = [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert epochs == [1, 2, 3, 4]
        assert json.loads((run / "best/best.json").read_text()) == {"epoch": 2, "accuracy": 0.6}
        best, last = (load_file(run / name / "pytorch_lora_weights.safetensors") for name in ("best", "lora"))
        assert any(bool((best[name] != last[name]).any()) for name in best)
        # Begun again, it is still over.
        _train(tmp_path, tiny_model, red, judge.target, patience=2)
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_judge_that_training_does_not_see_is_in_table_and_results(tmp_path: Path, tiny_model: Path, red: str) -> None:
    with serve_in_background([Scripted([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25], images=4)]) as judge:
        run = _train(tmp_path, tiny_model, red, judge.target)
    results = json.loads((run / "results.json").read_text())
    assert results["before"]["rewards"]["unseen"] == pytest.approx(0.5)
    assert results["after"]["rewards"]["unseen"] == pytest.approx(0.75)
    assert results["after"]["accuracy"] == pytest.approx(0.25)
    assert results["after"]["reward"] == results["after"]["rewards"]["red"]  # the unseen judge is no part of it
    table = (run / "table.md").read_text()
    assert "| unseen | 0.500 | 0.750 | +0.250 |" in table
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # Where every group came out all alike, nothing was trained: there is no ratio.
    ratios = [line["ratio_step/00"] for line in metrics if line["zero_std_ratio"] < 1]
    assert ratios
    assert np.isfinite(ratios).all()
    assert (run / "ratios.png").stat().st_size > 0
    assert not (run / "best").exists()  # nothing was better than the start


def test_an_accuracy_that_no_judge_gives_is_refused_before_training(tmp_path: Path, tiny_model: Path, red: str) -> None:
    with (
        serve_in_background([Scripted([0.5], images=4)]) as judge,
        pytest.raises(ConfigError, match=r"evaluation.accuracy is 'unseen/wrong'; allowed: .*unseen/right"),
    ):
        _train(tmp_path, tiny_model, red, judge.target, accuracy="unseen/wrong")
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_a_run_that_patience_has_ended_goes_on_as_if_it_had_never_stopped(
    tmp_path: Path, tiny_model: Path, red: str
) -> None:
    """Nothing was kept until then; after it, the first that is better than all before is."""
    runs = []
    for name, beginnings in (("straight", ()), ("stopped", ({"patience": 1, "keep_best": False},))):
        (tmp_path / name).mkdir()
        with serve_in_background([Scripted([0.2, 0.3, 0.6, 0.5, 0.55, 0.7, 0.1], images=4)]) as judge:
            for beginning in beginnings:
                run = _train(tmp_path / name, tiny_model, red, judge.target, **beginning)
                assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
                assert not (run / "best").exists()
            runs.append(_train(tmp_path / name, tiny_model, red, judge.target, batch_size=2))
        assert json.loads((runs[-1] / "best/best.json").read_text()) == {"epoch": 5, "accuracy": 0.7}
    for name in ("lora", "best"):
        whole, resumed = (load_file(run / name / "pytorch_lora_weights.safetensors") for run in runs)
        assert all(np.array_equal(resumed[key], whole[key]) for key in whole)


@pytest.mark.parametrize("size", [1, 3])
def test_held_out_pictures_do_not_depend_on_how_many_are_drawn_at_once(tiny_generator: SD3Generator, size: int) -> None:
    encoder = PromptEncoder(tiny_generator, "cpu")
    samples = draw_evaluation([PromptTask("two cups", None), PromptTask("a dog", None)], number=5, seed=0)
    drawn = []
    for batch_size in (5, size):
        config = EvaluationConfig(num_steps=3, guidance_scale=1.5, batch_size=batch_size, gallery_prompts=5)
        found = evaluate(tiny_generator, encoder, [Unscored()], samples, config, Accelerator(cpu=True), 0)
        drawn.append(np.stack([image.image for image in found.images]).astype(int))
    assert np.abs(drawn[0][0] - drawn[0][2]).max() > 10  # the same prompt from another seed
    assert np.abs(drawn[1] - drawn[0]).max() <= 1  # a level of a pixel, by rounding


class Unscored:
    """Stands for the services: what they say is of no matter."""

    def submit(self, images: list[np.ndarray], *_: Any, **__: Any) -> Future[RewardBatch]:
        done: Future[RewardBatch] = Future()
        done.set_result(RewardBatch(np.zeros(len(images)), np.ones(len(images), dtype=bool), {}))
        return done


class Killed(BaseException):
    """Nothing catches it, and nothing tidies up after it."""


@pytest.mark.parametrize("moment", ["evaluate", "_keep_best"])
def test_a_run_killed_around_an_evaluation_evaluates_on(
    tmp_path: Path, tiny_model: Path, red: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Killed after the second epoch's checkpoint, before its evaluation, or between that and keeping the best LoRA."""
    with serve_in_background([Scripted([0.2, 0.3, 0.6, 0.5, 0.5, 0.5, 0.4], images=4)]) as judge:
        work = getattr(HeldOut, moment)

        def killed(held_out: HeldOut, epoch: int, *more: object) -> None:
            if epoch == 2:
                raise Killed
            work(held_out, epoch, *more)

        monkeypatch.setattr(HeldOut, moment, killed)
        with pytest.raises(Killed):
            _train(tmp_path, tiny_model, red, judge.target)
        monkeypatch.undo()
        run = _train(tmp_path, tiny_model, red, judge.target)
    found = sorted(path.parent.name for path in run.glob("evaluations/*/summary.json"))
    assert found == [f"epoch-{epoch:06d}" for epoch in range(7)]
    assert json.loads((run / "best/best.json").read_text()) == {"epoch": 2, "accuracy": 0.6}
    assert (run / "best/pytorch_lora_weights.safetensors").is_file()
