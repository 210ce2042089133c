"""What happens while rewards are under way: who waits for which, and what becomes of them when a run breaks off."""

import gc
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from redness import Redness
from safetensors.torch import load_file

from assay.config import load_config
from assay.errors import ScoringFailedError
from assay.outcomes import Failed, Outcome
from assay.rewards import RewardSet
from assay.serving.scorer import Sample
from assay.testing import serve_in_background
from trainer.algorithms.flow_grpo import FlowGrpo
from trainer.config import TrainConfig
from trainer.loop import Trainer
from trainer.update import PolicyUpdate

ROOT = Path(__file__).parents[2]

#: An epoch is four micro-batches of four images, and two optimizer steps.
SMALL = (
    f"prompts={{train: {ROOT}/configs/train/prompts/miniature_counting.jsonl}}",
    "evaluation=null",
    "model.lora_rank=4",
    "model.lora_alpha=8",
    "sampling.num_steps=4",
    "sampling.group_size=4",
    "sampling.groups_per_epoch=4",
    "sampling.micro_batch_size=4",
    "algorithm.optimizer_steps_per_epoch=2",
    "run.epochs=3",
    "run.save_every_epochs=1",
    "run.threads=1",
    "run.trackers=[]",
)
GROUP, OFF_POLICY = "advantages.std=group", "sampling.one_step_off_policy=true"


def _train(output: Path, model: Path, scorer: Redness, *settings: str) -> None:
    """A run in this process, with a service in it, too."""
    with serve_in_background([scorer], max_batch_items=4) as server:
        scorer.seen = 0  # less the one that the server has warmed up with
        places = (f"model.path={model}", f"run.output={output}")
        rewards = f"rewards=[{{name: red, scorer: redness, targets: ['{server.target}']}}]"
        configuration = ROOT / "configs/train/miniature_counting.yaml"
        config = load_config(TrainConfig, configuration, [*SMALL, *places, rewards, *settings])
        with RewardSet(config.rewards, deadline_s=30) as reward_set:
            reward_set.wait_until_ready(10)
            Trainer(config, Accelerator(cpu=True), reward_set, [reward_set]).run()


def _lines(output: Path) -> list[dict]:
    """What was logged of each epoch, less what is measured in time."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_s") and k != "minutes"} for line in lines]


def _watch(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, then: Callable[[], None]) -> None:
    """Do something after each call of a method."""
    watched = getattr(owner, method)

    def call(*args: object, **options: object) -> object:
        result = watched(*args, **options)
        then()
        return result

    monkeypatch.setattr(owner, method, call)


def _record(patch: pytest.MonkeyPatch, then: Callable[[str], None]) -> None:
    """Tell, after each event, all of them so far: s, a micro-batch was submitted; u, an optimizer step was taken."""
    events: list[str] = []

    def add(event: str) -> None:
        events.append(event)
        then("".join(events))

    _watch(patch, RewardSet, "submit", lambda: add("s"))
    _watch(patch, PolicyUpdate, "step", lambda: add("u"))


class Gated(Redness):
    """Scores eight images, those of the first optimizer step; the others when the gate opens, if that is in time."""

    def __init__(self, gate: threading.Event, patience_s: float) -> None:
        super().__init__()
        self._gate, self._patience_s = gate, patience_s

    def score(self, batch: Sequence[Sample]) -> Sequence[Outcome]:
        if self.seen >= 8 and not self._gate.wait(self._patience_s):
            return [Failed("INTERNAL", "SHUT", "the gate did not open") for _ in batch]
        return super().score(batch)


def test_with_group_deviations_the_first_update_does_not_wait_for_the_last_rewards(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    _watch(monkeypatch, PolicyUpdate, "step", gate.set)
    _train(tmp_path, tiny_model, Gated(gate, patience_s=20), GROUP, "run.epochs=1")
    assert _lines(tmp_path)[0]["global_step"] == 2


def test_with_one_deviation_for_the_epoch_the_first_update_waits_for_all_rewards(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    _watch(monkeypatch, PolicyUpdate, "step", gate.set)
    with pytest.raises(ScoringFailedError, match="the gate did not open"):
        _train(tmp_path, tiny_model, Gated(gate, patience_s=0.2), "run.epochs=1")
    assert not gate.is_set()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [((), "ssssuu" * 3), ((OFF_POLICY,), "ssss" + "ssssuu" * 2 + "uu")],
    ids=["on_policy", "one_step_off_policy"],
)
def test_one_step_off_policy_submits_the_next_epoch_before_this_ones_update(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], expected: str
) -> None:
    events = [""]
    _record(monkeypatch, events.append)
    _train(tmp_path, tiny_model, Redness(), *settings)
    assert events[-1] == expected


class Killed(BaseException):
    """Nothing catches it, and nothing tidies up after it."""


@pytest.mark.parametrize(
    "algorithm",
    ["algorithm.name=flow_grpo", "algorithm={name: nft, optimizer_steps_per_epoch: 2, noise_draws: 1}"],
    ids=["flow_grpo", "nft"],
)
def test_a_killed_run_one_step_off_policy_resumes_to_the_same_bits(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """Killed in the second epoch: while the third is sampled ahead, and, resumed, after the first update.

    What was sampled ahead is lost with the run. It is sampled again, by the policy of that time.
    """
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    _train(straight, tiny_model, Redness(), OFF_POLICY, algorithm)
    for moment in ("ssssssssuus", "ssssssssu"):
        with monkeypatch.context() as patch:
            _record(patch, lambda events, moment=moment: _kill(events == moment))
            with pytest.raises(Killed):
                _train(killed, tiny_model, Redness(), OFF_POLICY, algorithm)
        assert [path.name for path in (killed / "checkpoints").iterdir()] == ["epoch-000001"]
    _train(killed, tiny_model, Redness(), OFF_POLICY, algorithm)
    assert _lines(killed) == _lines(straight)
    for file in (straight / "checkpoints/epoch-000003").rglob("*.safetensors"):
        whole, resumed = load_file(file), load_file(killed / file.relative_to(straight))
        assert resumed.keys() == whole.keys()
        assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def _kill(now: bool) -> None:
    if now:
        raise Killed


class Broken(Redness):
    """Scores eight images and then nothing any more."""

    def score(self, batch: Sequence[Sample]) -> Sequence[Outcome]:
        if self.seen >= 8:
            raise RuntimeError("out of order")
        return super().score(batch)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("setting", ["advantages.std=global", GROUP, OFF_POLICY], ids=["global", "group", "off_policy"])
def test_a_failing_scorer_ends_the_run_with_one_error(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture, setting: str
) -> None:
    """Several micro-batches fail; the first is reported, the others are dropped without a word."""
    with pytest.raises(ScoringFailedError, match="reward 'red' of image 0"):
        _train(tmp_path, tiny_model, Broken(), setting)
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_broken_gradient_stops_the_run_before_it_is_saved(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One number of the adapter turns into NaN in the second epoch; the first one's checkpoint stays the newest."""
    train_epoch = Trainer._train_epoch

    def broken(trainer: Trainer, epoch: int) -> dict:
        if epoch == 1:
            monkeypatch.setattr(FlowGrpo, "losses", _broken(FlowGrpo.losses))
        return train_epoch(trainer, epoch)

    monkeypatch.setattr(Trainer, "_train_epoch", broken)
    with pytest.raises(ArithmeticError, match="norm is nan"):
        _train(tmp_path, tiny_model, Redness())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch-000001"]
    saved = load_file(tmp_path / "checkpoints/epoch-000001/adapter.safetensors")
    assert all(bool(torch.isfinite(values).all()) for values in saved.values())


def _broken(losses: Callable) -> Callable:
    return lambda *arguments: (loss * float("nan") for loss in losses(*arguments))


class Fading(Redness):
    """Scores the sixteen images of the first epoch; of the later ones each is refused by itself."""

    def _one(self, sample: Sample) -> Outcome:
        scored = super()._one(sample)
        return scored if self.seen <= 16 else Failed("INTERNAL", "OUT_OF_MEMORY", "the picture does not fit")


@pytest.mark.parametrize("setting", ["advantages.std=global", GROUP, OFF_POLICY], ids=["global", "group", "off_policy"])
def test_an_epoch_without_any_score_ends_the_run_which_goes_on_when_there_are_scores_again(
    tmp_path: Path, tiny_model: Path, setting: str
) -> None:
    """However lenient the policy: a run in which every group is dropped would go on to its end and learn nothing."""
    straight, stopped, drop = tmp_path / "straight", tmp_path / "stopped", "rewards.0.on_failure=drop_group"
    with pytest.raises(ScoringFailedError, match=r"no image of epoch 2 .* \(16 of 16 .*'red': INTERNAL OUT_OF_MEMORY"):
        _train(stopped, tiny_model, Fading(), setting, drop)
    assert [line["epoch"] for line in _lines(stopped)] == [1]
    for folder in (straight, stopped):
        _train(folder, tiny_model, Redness(), setting, drop)
    assert _lines(stopped) == _lines(straight)
    whole, resumed = (load_file(folder / "lora/pytorch_lora_weights.safetensors") for folder in (straight, stopped))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
