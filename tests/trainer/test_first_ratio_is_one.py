"""On-policy, the ratio is exactly 1: what is scored in training is what was sampled; and what the loss makes of it."""

import pytest
import torch

from generators.sd3 import SD3Generator
from trainer.algorithms.algorithm import TrainingBatch
from trainer.algorithms.flow_grpo import FlowGrpo, FlowGrpoConfig, _measure, clipped_policy_loss, trained_steps
from trainer.algorithms.grpo_guard import GrpoGuard, GrpoGuardConfig
from trainer.metric_sums import MetricSums
from trainer.prompts import PromptTask, RolloutSample
from trainer.sampling import STOCHASTIC_STEPS, StepPlan, Trajectory, sample_trajectory
from trainer.stochastic_step import SdeStep

NUM_STEPS = 6


def _grpo(**changes: object) -> FlowGrpoConfig:
    return FlowGrpoConfig.model_validate({"name": "flow_grpo", **changes})


def _guard(**changes: object) -> GrpoGuardConfig:
    return GrpoGuardConfig.model_validate({"name": "grpo_guard", **changes})


def _metrics(
    generator: SD3Generator,
    config: FlowGrpoConfig,
    *,
    guidance_scale: float = 1.0,
    sde_type: str = "flow",
    disturb: float = 0.0,
    advantages: tuple[float, ...] = (1.0, -0.5, 0.0),
) -> dict[str, float]:
    """Sample three images, move the policy by `disturb`, and return the means of what the loss measures."""
    torch.manual_seed(1)
    if getattr(generator.transformer, "peft_config", None):
        generator.transformer.delete_adapters("default")
    parameters = generator.add_lora(4, 8)
    with torch.no_grad():
        for parameter in parameters:  # not only at the start, where the adapter does nothing
            parameter.normal_(std=0.1)
    prompts, negative = generator.encode_prompts(["a photo of two apples"] * 3), generator.encode_prompts([""])
    kind = GrpoGuard if isinstance(config, GrpoGuardConfig) else FlowGrpo
    algorithm = kind(
        config,
        generator,
        negative,
        num_steps=NUM_STEPS,
        guidance_scale=guidance_scale,
        noise_level=0.7,
        sde_type=sde_type,
    )
    samples = [RolloutSample(PromptTask("two apples", None), group=0, seed=seed, group_seed=9) for seed in range(3)]
    trajectory = sample_trajectory(
        generator,
        prompts,
        negative,
        sigmas=generator.sigmas(NUM_STEPS),
        guidance_scale=guidance_scale,
        generators=[sample.generator() for sample in samples],
        plan=algorithm.plan(samples, NUM_STEPS),
        step=STOCHASTIC_STEPS[sde_type],
    )
    with torch.no_grad():
        parameters[0].add_(disturb)
    metrics = MetricSums()
    batch = TrainingBatch([0, 1, 2], prompts, torch.tensor(advantages), trajectory.clean, trajectory=trajectory)
    losses = list(algorithm.losses(batch, metrics))
    assert len(losses) == algorithm.passes
    sum(losses).backward()
    assert all(parameter.grad is not None for parameter in parameters)
    assert metrics.numbers["ratio_mean"] == 2 * algorithm.passes  # the sample without advantage is left out
    return metrics.means()


@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
@pytest.mark.parametrize(
    ("config", "sde_type"),
    [
        (_grpo(), "flow"),
        (_grpo(timestep_strategy="random"), "flow"),
        (_grpo(window={"size": 2, "first": 1, "last": 4}), "flow"),
        (_grpo(), "cps"),
        (_grpo(window={"size": 2, "last": 4}), "cps"),
        (_guard(kl_weight=0.04), "flow"),
    ],
    ids=["first", "random", "window", "cps", "cps-window", "guard"],
)
def test_ratio_is_exactly_one_before_the_first_step(
    tiny_generator: SD3Generator, config: FlowGrpoConfig, sde_type: str, guidance_scale: float
) -> None:
    metrics = _metrics(tiny_generator, config, guidance_scale=guidance_scale, sde_type=sde_type)
    assert metrics["first_ratio_deviation"] == 0.0
    assert metrics["approx_kl"] == 0.0
    assert metrics["clip_fraction"] == 0.0
    assert metrics["kl"] > 0  # the reference has no adapter
    ratios = {name: value for name, value in metrics.items() if name.startswith("ratio_step/")}
    assert set(ratios.values()) == {1.0}


@pytest.mark.parametrize("config", [_grpo(), _guard()], ids=["grpo", "guard"])
def test_ratio_moves_when_the_policy_does(tiny_generator: SD3Generator, config: FlowGrpoConfig) -> None:
    assert _metrics(tiny_generator, config, disturb=0.5)["first_ratio_deviation"] > 0


def test_trained_steps() -> None:
    assert trained_steps(_grpo(timestep_fraction=0.5), 20, [0, 0]).tolist() == [list(range(10))] * 2
    assert trained_steps(_grpo(), 10, [0]).tolist() == [list(range(9))]
    config = _grpo(timestep_strategy="random", timestep_fraction=0.5)
    drawn = trained_steps(config, 10, range(8))
    assert drawn.shape == (8, 5)
    assert all(len(set(row)) == 5 and max(row) < 9 for row in drawn.tolist())
    assert len({tuple(row) for row in drawn.tolist()}) > 1
    assert torch.equal(trained_steps(config, 10, [3]), drawn[3:4])  # a sample's steps do not depend on its batch


def test_a_window_is_that_of_the_group_not_of_the_image(tiny_generator: SD3Generator) -> None:
    """Eight groups of four: equal within each, whatever the images' own seeds, and not equal in all."""
    config = _grpo(window={"size": 2, "first": 0, "last": 4})
    algorithm = FlowGrpo(config, tiny_generator, None, num_steps=NUM_STEPS, guidance_scale=1.0, noise_level=0.7)
    samples = [
        RolloutSample(PromptTask("two apples", None), group=group, seed=4 * group + member, group_seed=100 + group)
        for group in range(8)
        for member in range(4)
    ]
    plan = algorithm.plan(samples, NUM_STEPS)
    starts = plan.trained[:, 0].reshape(8, 4)
    assert (starts == starts[:, :1]).all()
    assert len(set(starts[:, 0].tolist())) > 1


def test_clip_fractions_by_hand() -> None:
    """Of ratios 1.3, 0.7 and 1 with clip range 0.1; a fourth sample has no advantage and is not counted."""
    ratio = torch.tensor([1.3, 0.7, 1.0, 5.0])
    kept, steps, nothing = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1]), torch.zeros(4)
    metrics = MetricSums()
    _measure(metrics, kept, steps, nothing, nothing, nothing, ratio.log(), 0.1)
    found = metrics.means()
    assert found["clip_fraction_above"] == found["clip_fraction_below"] == pytest.approx(1 / 3)
    assert found["clip_fraction"] == pytest.approx(2 / 3)
    assert found["clip_fraction_step/00"] == 1
    assert found["clip_fraction_step/01"] == 0
    assert found["ratio_step/00"] == pytest.approx(1.0)
    assert found["first_ratio_deviation"] == pytest.approx(0.3)


def test_clipping_by_hand() -> None:
    ratio = torch.tensor([1.3, 1.3, 0.7, 0.7, 1.05])
    advantages = torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0])
    # the pessimist's choice: gains are bounded, losses are not
    expected = torch.tensor([-2 * 1.1, 2 * 1.3, -2 * 0.7, 2 * 0.9, -1.05])
    torch.testing.assert_close(clipped_policy_loss(ratio, advantages, 0.1), expected)


@pytest.mark.parametrize(("clip", "expected"), [(0.25, (-0.25 + 0.25) / 2), (0.75, (-0.75 + 0.5) / 2)])
def test_advantages_are_clamped(tiny_generator: SD3Generator, clip: float, expected: float) -> None:
    metrics = _metrics(tiny_generator, _grpo(advantage_clip=clip, kl_weight=0.0))
    assert metrics["policy_loss"] == pytest.approx(expected)


def test_kl_is_the_distance_of_the_means_over_the_chosen_variance(tiny_generator: SD3Generator) -> None:
    """For step 0 of this schedule sigma - sigma_next is known, so both denominators can be told from each other."""
    sigmas = tiny_generator.sigmas(NUM_STEPS)
    settings = {"timestep_fraction": 0.2, "kl_weight": 1.0}  # the first step alone
    by_s = _metrics(tiny_generator, _grpo(**settings))
    by_transition = _metrics(tiny_generator, _grpo(**settings, kl_denominator="transition_std"))
    assert by_transition["kl"] == pytest.approx(by_s["kl"] / (sigmas[0] - sigmas[1]), rel=1e-4)
    assert by_s["loss"] == pytest.approx(by_s["policy_loss"] + by_s["kl"], rel=1e-5)


def test_guards_log_ratio_is_linear_in_the_move(tiny_generator: SD3Generator) -> None:
    """Without the square of the move, mean((x' - mean_old) (mean - mean_old)) / std is left, worked out here."""
    torch.manual_seed(2)
    mean_old, moved = torch.randn(4, 2, 3, 3), 0.3 * torch.randn(4, 2, 3, 3)
    result, std = mean_old + 0.4 * torch.randn(4, 2, 3, 3), torch.full((4,), 0.4)
    new, old = (
        torch.distributions.Normal(mean, 0.4).log_prob(result).flatten(1).mean(1)
        for mean in (mean_old + moved, mean_old)
    )
    sigmas = torch.tensor([1.0, 0.75, 0.0])
    step = SdeStep(result, new, mean_old + moved, std / 0.5, std)
    trajectory = Trajectory(
        clean=result,
        sigmas=sigmas,
        plan=StepPlan.deterministic(4, 2),
        states=result[:, None],
        next_states=result[:, None],
        means=mean_old[:, None],
        log_probs=old[:, None],
    )
    guard = GrpoGuard(_guard(), tiny_generator, None, num_steps=2, guidance_scale=1.0, noise_level=0.7)
    log_ratio, scale = guard._log_ratio(step, trajectory, 0, torch.tensor([0, 0, 1, 1]))
    expected = ((result - mean_old) * moved).flatten(1).mean(1) / 0.4
    torch.testing.assert_close(log_ratio, expected, atol=1e-6, rtol=1e-5)
    assert torch.as_tensor(scale).tolist() == pytest.approx([4, 4, 4 / 3, 4 / 3])
