"""On-policy, the ratio is exactly 1: what is scored in training is what was sampled."""

import pytest
import torch

from generators.sd3 import SD3Generator
from trainer.algorithms.flow_grpo import FlowGrpoConfig, FlowGrpoLoss, StepMetrics, trained_steps
from trainer.sampling import sample_trajectory


def _loss_metrics(
    generator: SD3Generator, config: FlowGrpoConfig, guidance_scale: float, disturb: float
) -> StepMetrics:
    torch.manual_seed(1)
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
    loss = FlowGrpoLoss(config, generator, generator, guidance_scale=guidance_scale, noise_level=0.7)
    steps = trained_steps(config, 6, torch.Generator().manual_seed(0), 3)
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
    generator = torch.Generator().manual_seed(0)
    first = trained_steps(FlowGrpoConfig(timestep_fraction=0.5), 20, generator, 2)
    assert first.tolist() == [list(range(10))] * 2
    assert trained_steps(FlowGrpoConfig(), 10, generator, 1).tolist() == [list(range(9))]
    drawn = trained_steps(FlowGrpoConfig(timestep_strategy="random", timestep_fraction=0.5), 10, generator, 8)
    assert drawn.shape == (8, 5)
    assert all(len(set(row)) == 5 and max(row) < 9 for row in drawn.tolist())
    assert len({tuple(row) for row in drawn.tolist()}) > 1


def test_clipping_and_kl_by_hand(tiny_generator: SD3Generator) -> None:
    """With ratio r > 1 + c and A > 0 the loss is -A (1 + c); with A < 0 it is -A r."""
    config = FlowGrpoConfig(clip_range=1e-9, kl_weight=0.0, timestep_fraction=0.2, advantage_clip=2.0)
    metrics = _loss_metrics(tiny_generator, config, 1.0, disturb=0.5)
    # one trained step, advantages 1 and -0.5; the terms differ from -1 and 0.5 by the ratios' distance from 1 at most
    assert metrics.number == 2
    assert metrics.clip_fraction == 2
    assert metrics.policy_loss == pytest.approx(-0.5, abs=2 * metrics.ratio_deviation)
    assert metrics.kl == 0
