"""On-policy, the ratio is exactly 1: what is scored in training is what was sampled."""

import pytest
import torch

from generators.sd3 import SD3Generator
from trainer.algorithms.flow_grpo import FlowGrpoConfig, FlowGrpoLoss, StepMetrics, clipped_policy_loss, trained_steps
from trainer.sampling import sample_trajectory


def _loss_metrics(
    generator: SD3Generator, config: FlowGrpoConfig, guidance_scale: float, disturb: float
) -> StepMetrics:
    torch.manual_seed(1)
    if getattr(generator.transformer, "peft_config", None):
        generator.transformer.delete_adapters("default")
    parameters = generator.add_lora(4, 8)
    with torch.no_grad():
        for parameter in parameters:  # not only at the start, where the adapter does nothing
            parameter.normal_(std=0.1)
    prompts = generator.encode_prompts(["a photo of two apples"] * 3)
    negative = generator.encode_prompts([""])
    trajectory = sample_trajectory(
        generator,
        prompts,
        negative,
        sigmas=generator.sigmas(6),
        guidance_scale=guidance_scale,
        noise_level=0.7,
        generators=[torch.Generator().manual_seed(seed) for seed in range(3)],
    )
    with torch.no_grad():
        parameters[0].add_(disturb)
    metrics = StepMetrics()
    loss = FlowGrpoLoss(config, generator, guidance_scale=guidance_scale, noise_level=0.7)
    steps = trained_steps(config, 6, [0, 1, 2])
    for value in loss.per_step(trajectory, prompts, negative, torch.tensor([1.0, -0.5, 0.0]), steps, metrics):
        value.backward()
    assert all(parameter.grad is not None for parameter in parameters)
    return metrics


@pytest.mark.parametrize("strategy", ["first", "random"])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
def test_ratio_is_exactly_one_before_the_first_step(
    tiny_generator: SD3Generator, strategy: str, guidance_scale: float
) -> None:
    config = FlowGrpoConfig(timestep_strategy=strategy, kl_weight=0.04)
    metrics = _loss_metrics(tiny_generator, config, guidance_scale, disturb=0.0)
    assert metrics.number == 2 * 5  # the sample without advantage is left out; the last of six steps is never trained
    assert metrics.ratio_deviation == 0.0
    assert metrics.approx_kl == 0.0
    assert metrics.clip_fraction == 0.0
    assert metrics.kl > 0  # the reference has no adapter


def test_ratio_moves_when_the_policy_does(tiny_generator: SD3Generator) -> None:
    metrics = _loss_metrics(tiny_generator, FlowGrpoConfig(), 1.0, disturb=0.5)
    assert metrics.ratio_deviation > 0


def test_trained_steps() -> None:
    assert trained_steps(FlowGrpoConfig(timestep_fraction=0.5), 20, [0, 0]).tolist() == [list(range(10))] * 2
    assert trained_steps(FlowGrpoConfig(), 10, [0]).tolist() == [list(range(9))]
    config = FlowGrpoConfig(timestep_strategy="random", timestep_fraction=0.5)
    drawn = trained_steps(config, 10, range(8))
    assert drawn.shape == (8, 5)
    assert all(len(set(row)) == 5 and max(row) < 9 for row in drawn.tolist())
    assert len({tuple(row) for row in drawn.tolist()}) > 1
    assert torch.equal(trained_steps(config, 10, [3]), drawn[3:4])  # a sample's steps do not depend on its batch


def test_clipping_by_hand() -> None:
    ratio = torch.tensor([1.3, 1.3, 0.7, 0.7, 1.05])
    advantages = torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0])
    # the pessimist's choice: gains are bounded, losses are not
    expected = torch.tensor([-2 * 1.1, 2 * 1.3, -2 * 0.7, 2 * 0.9, -1.05])
    torch.testing.assert_close(clipped_policy_loss(ratio, advantages, 0.1), expected)


def test_advantages_are_clamped(tiny_generator: SD3Generator) -> None:
    metrics = _loss_metrics(tiny_generator, FlowGrpoConfig(advantage_clip=0.25, kl_weight=0.0), 1.0, disturb=0.0)
    assert metrics.policy_loss / metrics.number == pytest.approx((-0.25 + 0.25) / 2)
    metrics = _loss_metrics(tiny_generator, FlowGrpoConfig(advantage_clip=0.75, kl_weight=0.0), 1.0, disturb=0.0)
    assert metrics.policy_loss / metrics.number == pytest.approx((-0.75 + 0.5) / 2)


def test_kl_is_the_distance_of_the_means_over_the_chosen_variance(tiny_generator: SD3Generator) -> None:
    """For step 0 of this schedule sigma - sigma_next is known, so both denominators can be told from each other."""
    sigmas = tiny_generator.sigmas(6)
    config = FlowGrpoConfig(timestep_fraction=0.2, kl_weight=1.0)  # the first step alone
    by_s = _loss_metrics(tiny_generator, config, 1.0, disturb=0.0)
    changed = config.model_copy(update={"kl_denominator": "transition_std"})
    by_transition = _loss_metrics(tiny_generator, changed, 1.0, disturb=0.0)
    assert by_s.number == 2
    assert by_transition.kl == pytest.approx(by_s.kl / (sigmas[0] - sigmas[1]), rel=1e-4)
    assert by_s.loss == pytest.approx(by_s.policy_loss + by_s.kl, rel=1e-5)
