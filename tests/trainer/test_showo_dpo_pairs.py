"""Where Show-o's pairs come from: no pair from a tie, no row on two processes, and a verifier's say in what counts."""

import json
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from redness import Redness
from toy_masked_model import ToyMaskedModel

from assay.config import load_config
from assay.errors import ScoringFailedError
from assay.outcomes import Outcome
from assay.rewards import RewardBatch, RewardConfig, RewardSet
from assay.serving.scorer import Sample, ScorerInfo
from assay.tasks import GenEvalTask, ObjectClause, OutcomeTask
from assay.testing import serve_in_background
from generators.embeddings import PromptEmbeddings
from generators.showo.trainable import ShowoGenerator
from trainer.algorithms.algorithm import TrainingBatch
from trainer.algorithms.guidance import GuidanceConfig, pair_weights
from trainer.algorithms.showo_dpo import ShowoDpo, ShowoDpoConfig
from trainer.config import TrainConfig
from trainer.data_rows import DataRow, read_rows
from trainer.dataset import DatasetSource
from trainer.embeddings_cache import PromptEncoder
from trainer.metric_sums import MetricSums
from trainer.pair_judge import PairJudge
from trainer.prompts import PromptTask, RolloutSample
from trainer.rollout import Rollout
from trainer.sampling import Trajectory

ROOT = Path(__file__).parents[2]
CODES = torch.tensor([[0, 0, 1], [1, 1, 1], [2, 2, 2], [3, 3, 0], [1, 0, 3], [2, 3, 0]])


def rollouts(totals: Sequence[float]) -> list[Rollout]:
    """Two groups of three, sampled together."""
    future: Future[RewardBatch] = Future()
    future.set_result(RewardBatch(np.array(totals), np.isfinite(totals), {}))
    samples = [RolloutSample(PromptTask("p", None), group=7 + row // 3, seed=row, group_seed=0) for row in range(6)]
    prompts = PromptEmbeddings(torch.arange(1, 7)[:, None])
    return [Rollout(samples, prompts, Trajectory.without_path(CODES), future)]


def online(guidance: dict[str, Any] | None, totals: Sequence[float]) -> tuple[ShowoDpo, list[TrainingBatch]]:
    settings = {"name": "showo_dpo", "prompt_dropout": 0, "micro_batch_pairs": 2, "guidance": guidance}
    model = ToyMaskedModel([0.0, 0.0, 0.0, 0.0, 1.0, -0.5, 0.2, 0.7])
    algorithm = ShowoDpo(ShowoDpoConfig.model_validate(settings), model, PromptEmbeddings(torch.zeros(1, 1).long()), [])
    advantages = np.nan_to_num(np.array(totals) - np.mean(totals))
    return algorithm, algorithm.batches(rollouts(totals), advantages)


def test_best_and_worst_of_a_group_and_no_pair_from_a_tie() -> None:
    _, (batch,) = online(None, [0.2, 0.9, 0.4, 0.5, 0.5, 0.5])
    assert batch.weights.tolist() == [1, 0]
    assert batch.rejected is not None
    assert (batch.clean[0].tolist(), batch.rejected[0].tolist()) == (CODES[1].tolist(), CODES[0].tolist())
    assert batch.seeds[0] == 1
    assert batch.prompts.tokens[0].item() == 2


@pytest.mark.parametrize(
    ("guidance", "weights"),
    [
        ({"use": "weigh"}, [0.7, 0.25]),
        ({"use": "weigh", "margin": 0.3}, [0.7, 0]),
        ({"use": "select", "margin": 0.3}, [1, 0]),
    ],
)
def test_the_rewards_themselves_weigh_online_pairs(guidance: dict[str, Any], weights: list[float]) -> None:
    _, (batch,) = online(guidance, [0.2, 0.9, 0.4, 0.5, 0.75, 0.5])
    assert batch.weights.tolist() == pytest.approx(weights)


def test_the_rule_by_hand() -> None:
    chosen, rejected = torch.tensor([0.9, 0.4, 0.6, float("nan")]), torch.tensor([0.1, 0.5, 0.55, 0.1])
    for settings, expected in (
        ({"use": "weigh"}, [0.8, 0, 0.05, 0]),
        ({"use": "weigh", "margin": 0.1}, [0.8, 0, 0, 0]),
        ({"use": "select"}, [1, 0, 1, 0]),
    ):
        found = pair_weights(GuidanceConfig.model_validate(settings), chosen, rejected)
        assert found.tolist() == pytest.approx(expected)


def test_a_verifier_changes_the_gradient_and_not_only_its_length() -> None:
    gradients = []
    for guidance in (None, {"use": "weigh"}, {"use": "select", "margin": 0.3}):
        algorithm, batches = online(guidance, [0.2, 0.9, 0.4, 0.5, 0.75, 0.5])
        model: Any = algorithm._model
        sum(loss for batch in batches for loss in algorithm.losses(batch, MetricSums())).backward()
        gradients.append(model.logits.grad)
    for other in gradients[1:]:
        assert torch.cosine_similarity(gradients[0], other, dim=0) < 0.995


class AsksForTasks(Redness):
    """Redness, and which tasks it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[Any] = []

    @property
    def info(self) -> ScorerInfo:
        return ScorerInfo("redness", "1" * 16, (0.0, 1.0), True, ("GenEvalTask", "OutcomeTask"))

    def warm_up_sample(self) -> Sample:
        return Sample("warm-up", (np.zeros((8, 8, 3), np.uint8),), "", OutcomeTask())

    def score(self, batch: Sequence[Sample]) -> Sequence[Outcome]:
        self.tasks += [sample.task for sample in batch]
        return super().score(batch)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twelve pairs: the better picture of an even one is redder, of an odd one greener."""
    rows = []
    for index in range(12):
        for side, red in (("chosen", index % 2 == 0), ("rejected", index % 2 == 1)):
            color = (50 + index, 40, 0) if red else (40, 60, 0)
            Image.new("RGB", (64, 64), color).save(tmp_path / f"{index}_{side}.png")
        files = {side: f"{index}_{side}.png" for side in ("chosen", "rejected")}
        task = {"metadata": {"tag": "single", "include": [{"class": "cup", "count": 1}]}} if index < 6 else {}
        rows.append({"prompt": f"pair {index}", **files, **task})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_pairs_of_a_file_are_judged_once_and_left_out_where_the_verifier_disagrees(pairs: Path) -> None:
    judge_of_redness = AsksForTasks()
    rows = dict(enumerate(read_rows(pairs, ["chosen", "rejected"])))
    assert rows[0].task == GenEvalTask("single", (ObjectClause("cup", 1),))
    with serve_in_background([judge_of_redness]) as server:
        judge_of_redness.tasks.clear()
        reward = RewardConfig(name="red", scorer="redness", targets=(server.target,))
        with RewardSet([reward]) as rewards:
            judge = PairJudge(GuidanceConfig(), rewards, (64, 64))
            weights = judge.submit(rows)()
            assert torch.equal(judge.submit(rows)(), weights)
    assert bool((weights[::2] > 0).all())
    assert not weights[1::2].any()
    assert bool((weights[2::2] > weights[:-2:2]).all())  # the redder, the surer
    assert len(judge_of_redness.tasks) == 24
    assert sum(isinstance(task, GenEvalTask) for task in judge_of_redness.tasks) == 12
    found = judge.metrics(SimpleNamespace(num_processes=1))
    assert found["pairs_kept"] == 0.5
    assert judge.metrics(SimpleNamespace(num_processes=1)) == {}


@pytest.mark.parametrize("on_failure", ["raise", "drop_group"])
def test_a_pair_without_a_score_is_an_error_or_left_out(pairs: Path, on_failure: str) -> None:
    rows: dict[int, DataRow] = dict(enumerate(read_rows(pairs, ["chosen", "rejected"])[:6:2]))
    with serve_in_background([Redness(fail_every=4)]) as server:
        reward = RewardConfig(name="red", scorer="redness", targets=(server.target,), on_failure=on_failure)
        with RewardSet([reward]) as rewards:
            weights = PairJudge(GuidanceConfig(), rewards, (64, 64)).submit(rows)
            if on_failure == "raise":
                with pytest.raises(ScoringFailedError, match="NOT_RED"):
                    weights()
            else:
                assert 0 < int((weights() == 0).sum()) < 3


def test_an_epoch_has_each_row_once_whatever_the_number_of_processes(pairs: Path, tiny_masked: ShowoGenerator) -> None:
    """Published, every process trains on the same rows."""
    encoder = PromptEncoder(tiny_masked, "cpu")
    changes = [f"algorithm.data={pairs}", "algorithm.pairs_per_epoch=12", "algorithm.optimizer_steps_per_epoch=2"]
    changes += ["algorithm.micro_batch_pairs=2", "run.threads=null"]
    config = load_config(TrainConfig, ROOT / "configs/train/miniature_showo_dpo.yaml", changes)

    def seen(processes: int, process: int) -> list[list[tuple[int, ...]]]:
        accelerator: Any = SimpleNamespace(num_processes=processes, process_index=process, device=torch.device("cpu"))
        source = DatasetSource(config, accelerator, tiny_masked, encoder, None)
        return [[tuple(own.seeds) for own in batches] for batches in source.steps(3)]

    def flat(steps: list[list[tuple[int, ...]]]) -> list[int]:
        return [seed for step in steps for batch in step for seed in batch]

    alone, shares = flat(seen(1, 0)), [seen(3, process) for process in range(3)]
    assert len(set(alone)) == 12
    assert sorted(seed for share in shares for seed in flat(share)) == sorted(alone)
    assert {len(step) for share in shares for step in share} == {1}
    order = DatasetSource(config, SimpleNamespace(), tiny_masked, encoder, None)._order(3)
    assert sorted(order.tolist()) == list(range(12))
