"""Each loss and each choice of what is trained on, against numbers worked out by hand on a model of one parameter."""

import math
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from linear_model import LinearModel, no_prompts

from trainer.algorithms.algorithm import TrainingBatch
from trainer.algorithms.dpo import Dpo, DpoConfig
from trainer.algorithms.forward_process import ForwardProcess, noised
from trainer.algorithms.nft import Nft, NftConfig
from trainer.algorithms.pairs import best_and_worst
from trainer.algorithms.rwr import RwrConfig, regression_weights
from trainer.algorithms.sft import FlowMatching, SftConfig
from trainer.metric_sums import MetricSums
from trainer.policy_copy import PolicyCopy
from trainer.prompts import PromptTask, RolloutSample
from trainer.rollout import Rollout
from trainer.sampling import StepPlan, Trajectory


def _batch(weights: Sequence[float], rejected: bool = False) -> TrainingBatch:
    torch.manual_seed(0)
    shape = (len(weights), 2, 3)
    return TrainingBatch(
        seeds=list(range(len(weights))),
        prompts=no_prompts(len(weights)),
        weights=torch.tensor(list(weights)),
        clean=torch.randn(shape),
        rejected=torch.randn(shape) if rejected else None,
    )


def _noised(config, model: LinearModel, batch: TrainingBatch, draw: int):
    return noised(batch.clean, *ForwardProcess(config, model, 1.0).draw(batch, draw))


def _mean_square(values: torch.Tensor) -> torch.Tensor:
    return (values**2).flatten(1).mean(1)


def test_flow_matching_is_the_weighted_error_of_the_velocity() -> None:
    model, config = LinearModel(0.5), SftConfig.model_validate({"name": "sft", "data": "x", "noise_draws": 2})
    batch = _batch([2.0, 0.0, 1.0])
    metrics = MetricSums()
    losses = list(FlowMatching(config, model, 1.0).losses(batch, metrics))
    for draw, loss in enumerate(losses):
        mixed = _noised(config, model, batch, draw)
        errors = _mean_square(0.5 * mixed.latents - mixed.velocity)
        assert loss.item() == pytest.approx((2 * errors[0] + errors[2]).item(), rel=1e-6)
    assert len(losses) == 2
    assert metrics.numbers["loss"] == 4  # two samples, two draws


@pytest.mark.parametrize("mixing", [1.0, 0.1])
def test_nft_loss_by_hand(mixing: float) -> None:
    model = LinearModel(0.5)
    config = NftConfig.model_validate({"name": "nft", "mixing": mixing, "noise_draws": 1, "reference_weight": 0.25})
    nft = Nft(config, model, [model.weight], 1.0)
    with torch.no_grad():
        model.weight.fill_(0.7)  # the learner; the sampling policy stays at 0.5
    batch = _batch([2.0, -7.0])
    (loss,) = nft.losses(batch, MetricSums())
    mixed = _noised(config, model, batch, 0)
    x, sigma = mixed.latents, mixed.sigma[:, None, None]
    old, new = 0.5 * x, 0.7 * x
    good = torch.tensor([2 / 5 / 2 + 0.5, 0.0])  # clipped at the bottom
    towards = x - sigma * ((1 - mixing) * old + mixing * new) - batch.clean
    away = x - sigma * ((1 + mixing) * old - mixing * new) - batch.clean
    sizes = [part.abs().flatten(1).mean(1) for part in (towards, away)]
    expected = 5 / mixing * (good * _mean_square(towards) / sizes[0] + (1 - good) * _mean_square(away) / sizes[1])
    expected = expected + 0.25 * _mean_square(new)  # the reference, without adapter, predicts 0
    assert loss.item() == pytest.approx(expected.sum().item(), rel=1e-5)
    assert model.weight.item() == pytest.approx(0.7)  # what was swapped in has been swapped out


def test_nft_pulls_towards_what_is_good_and_away_from_what_is_bad() -> None:
    """One sample; its own velocity error has a direction in w. Good and bad advantages move w in opposite ones."""
    gradients = []
    for advantage in (5.0, -5.0):
        model = LinearModel(0.5)
        config = NftConfig.model_validate({"name": "nft", "noise_draws": 1, "reference_weight": 0})
        (loss,) = Nft(config, model, [model.weight], 1.0).losses(_batch([advantage]), MetricSums())
        loss.backward()
        gradients.append(model.weight.grad.item())
    assert gradients[0] == pytest.approx(-gradients[1], rel=1e-5)
    assert gradients[0] != 0


def test_nfts_sampling_policy_follows_ever_more_slowly() -> None:
    model = LinearModel(0.0)
    config = NftConfig.model_validate({"name": "nft", "old_decay_rate": 0.1, "old_decay_limit": 0.25})
    nft = Nft(config, model, [model.weight], 1.0)
    with torch.no_grad():
        model.weight.fill_(1.0)
    for epoch, expected in ((1, 0.9), (2, 1 - 0.1 * 0.2), (9, 1 - 0.02 * 0.25)):
        nft.after_epoch(epoch)
        assert nft.copies["old"].values[0].item() == pytest.approx(expected)
    with nft.behaviour():
        assert model.weight.item() == pytest.approx(expected)


def test_nfts_sampling_policy_is_the_newest_until_it_begins_to_follow() -> None:
    """The authors' second schedule: d = 0.0075 (epoch - 75), at most 0.999."""
    model = LinearModel(0.0)
    decay = {"old_decay_rate": 0.0075, "old_decay_start": 75, "old_decay_limit": 0.999}
    nft = Nft(NftConfig.model_validate({"name": "nft", **decay}), model, [model.weight], 1.0)
    for epoch, learner, expected in ((75, 1.0, 1.0), (76, 2.0, 2 - 0.0075), (300, 3.0, 3 - 0.999 * (1 + 0.0075))):
        with torch.no_grad():
            model.weight.fill_(learner)
        nft.after_epoch(epoch)
        assert nft.copies["old"].values[0].item() == pytest.approx(expected)


def test_dpo_loss_by_hand_and_one_noise_for_both() -> None:
    model = LinearModel(0.5)
    config = DpoConfig.model_validate({"name": "dpo", "beta": 3.0, "noise_draws": 1})
    dpo = Dpo(config, model, [model.weight], 1.0)
    with torch.no_grad():
        model.weight.fill_(0.9)  # the reference stays at 0.5
    batch = _batch([1.0, 0.0], rejected=True)
    metrics = MetricSums()
    (loss,) = dpo.losses(batch, metrics)
    sigma, noise = ForwardProcess(config, model, 1.0).draw(batch, 0)
    gains = []
    for clean in (batch.clean, batch.rejected):
        mixed = noised(clean, sigma, noise)
        new, reference = (_mean_square(w * mixed.latents - mixed.velocity) for w in (0.9, 0.5))
        gains.append(new - reference)
    inside = -1.5 * (gains[0] - gains[1])
    assert loss.item() == pytest.approx(-F.logsigmoid(inside)[0].item(), rel=1e-5)
    assert metrics.means()["implicit_accuracy"] == float(inside[0] > 0)
    assert metrics.numbers["loss"] == 1


def test_dpos_reference_follows_when_it_is_told_to() -> None:
    for every, expected in ((None, 0.5), (2, 0.8)):
        model = LinearModel(0.5)
        config = DpoConfig.model_validate({"name": "dpo", "reference_update_epochs": every, "sample_with": "reference"})
        dpo = Dpo(config, model, [model.weight], 1.0)
        with torch.no_grad():
            model.weight.fill_(0.8)
        dpo.after_epoch(1)
        assert dpo.copies["reference"].values[0].item() == 0.5
        dpo.after_epoch(2)
        with dpo.behaviour():
            assert model.weight.item() == pytest.approx(expected)
        assert model.weight.item() == pytest.approx(0.8)


def _rollouts(groups: Sequence[Sequence[int]]) -> list[Rollout]:
    """Micro-batches whose samples' group ids are given; the clean latents of sample n (in all) are all n."""
    rollouts, number = [], 0
    for batch in groups:
        clean = torch.arange(number, number + len(batch)).float()[:, None].expand(-1, 2).clone()
        empty = torch.zeros(len(batch), 0)
        trajectory = Trajectory(
            clean, torch.tensor([1.0, 0.0]), StepPlan.deterministic(len(batch), 1), empty, empty, empty, empty
        )
        samples = [
            RolloutSample(PromptTask(f"p{group}", None), group, seed=number + row, group_seed=group)
            for row, group in enumerate(batch)
        ]
        rollouts.append(Rollout(samples, no_prompts(len(batch)), trajectory, Future()))
        number += len(batch)
    return rollouts


def test_pairs_are_the_best_and_the_worst_of_each_group_and_ties_give_none() -> None:
    rollouts = _rollouts([[0, 0, 0, 1], [1, 1, 2, 2]])  # groups reach over micro-batches
    advantages = np.array([0.1, 0.9, -1.0, -0.5, 1.5, -1.0, 0.0, 0.0])
    pairs = best_and_worst(rollouts, advantages)
    assert [pair.clean[0, 0].item() for pair in pairs[:2]] == [1, 4]
    assert [pair.rejected[0, 0].item() for pair in pairs[:2]] == [2, 5]
    assert [pair.weights.item() for pair in pairs] == [1, 1, 0]
    config = DpoConfig.model_validate({"name": "dpo", "micro_batch_pairs": 2})
    model = LinearModel()
    batches = Dpo(config, model, [model.weight], 1.0).batches(rollouts, advantages)
    assert [batch.weights.tolist() for batch in batches] == [[1, 1], [0]]
    assert batches[0].seeds == [1, 4]


def test_regression_weights_by_hand() -> None:
    groups = np.array([0, 0, 0, 1, 1])
    advantages = np.array([1.0, 0.0, -1.0, 0.0, 0.0])  # the second group has nothing to tell
    config = RwrConfig.model_validate({"name": "rwr", "temperature": 0.5, "largest_weight": 5})
    found = regression_weights(config, advantages, groups)
    assert found == pytest.approx([5.0, 1.0, np.exp(-2), 0, 0])
    best = RwrConfig.model_validate({"name": "rwr", "weighting": "best"})
    assert regression_weights(best, np.array([1.0, 1.0, -2.0, 0.0, 0.0]), groups).tolist() == [1, 1, 0, 0, 0]


def test_noise_levels_cover_their_range_and_depend_on_the_sample_alone() -> None:
    model = LinearModel()
    config = NftConfig.model_validate({"name": "nft", "noise_draws": 4})
    process = ForwardProcess(config, model, 1.0)
    batch = _batch([1.0] * 200)
    levels = torch.stack([process.draw(batch, draw)[0] for draw in range(4)])
    uniform = levels / (3 - 2 * levels)  # back from shift 3
    for draw in range(4):
        assert uniform[draw].min() >= draw / 4 - 1e-4
        assert uniform[draw].max() <= (draw + 1) / 4 + 1e-4
    alone = TrainingBatch([17], no_prompts(1), torch.ones(1), batch.clean[17:18])
    sigma, noise = process.draw(alone, 2)
    together = process.draw(batch, 2)
    assert torch.equal(sigma, together[0][17:18])
    assert torch.equal(noise, together[1][17:18])


def test_logit_normal_levels_have_its_quantiles() -> None:
    config = DpoConfig.model_validate({"name": "dpo", "noise_draws": 1})
    levels, _ = ForwardProcess(config, LinearModel(), 1.0).draw(_batch([1.0] * 4000), 0)
    normal = torch.logit(levels / (3 - 2 * levels))
    assert normal.mean().item() == pytest.approx(0, abs=0.06)
    assert normal.std().item() == pytest.approx(1, abs=0.04)


def test_a_policy_copy_is_put_in_place_and_out_again() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    copy = PolicyCopy([parameter])
    with torch.no_grad():
        parameter.fill_(2.0)
    with copy.in_place():
        assert parameter.item() == 1.0
    assert parameter.item() == 2.0
    copy.follow(0.25)
    assert copy.values[0].item() == pytest.approx(0.25 * 1 + 0.75 * 2)
    with pytest.raises(RuntimeError, match="stop"), copy.in_place():
        raise RuntimeError("stop")
    assert parameter.item() == 2.0


def test_metric_sums_by_hand() -> None:
    metrics, other = MetricSums(), MetricSums()
    kept = torch.tensor([1.0, 0.0, 1.0])
    metrics.add(kept, loss=torch.tensor([1.0, 100.0, 3.0]))
    metrics.add_by_step(kept, torch.tensor([4, 4, 2]), ratio=torch.tensor([0.9, 7.0, 1.2]))
    metrics.highest("top", kept, torch.tensor([0.5, 9.0, 0.7]))
    other.add(torch.ones(2), loss=torch.tensor([5.0, 7.0]))
    other.add_by_step(torch.ones(1), torch.tensor([4]), ratio=torch.tensor([1.1]))
    metrics.merge(other)
    found = metrics.means()
    assert found["loss"] == pytest.approx(4.0)
    assert found["ratio_step/04"] == pytest.approx(1.0)
    assert found["ratio_deviation_step/04"] == pytest.approx(0.1)
    assert found["ratio_step/02"] == pytest.approx(1.2)
    assert found["top"] == pytest.approx(0.7)
    metrics.highest("top", torch.tensor([0.0, 1.0]), torch.tensor([float("nan"), 0.9]))
    assert metrics.means()["top"] == pytest.approx(0.9)  # the NaN is of a sample that is left out
    metrics.highest("top", torch.tensor([1.0, 1.0]), torch.tensor([float("nan"), 0.9]))
    metrics.merge(other)
    assert math.isnan(metrics.means()["top"])
