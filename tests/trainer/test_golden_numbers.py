"""The stochastic step and the advantages equal the reference implementation's numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors import safe_open

from trainer.advantages import epoch_advantages, group_advantages
from trainer.flow_sde import sde_step

GOLDEN = Path(__file__).parents[1] / "golden"


def _sde_cases() -> list[dict]:
    with safe_open(GOLDEN / "flow_grpo_sde_step.safetensors", "pt") as file:
        return json.loads(file.metadata()["cases"])


@pytest.mark.parametrize("case", _sde_cases(), ids=lambda case: case["key"])
def test_sde_step_equals_the_reference(case: dict) -> None:
    with safe_open(GOLDEN / "flow_grpo_sde_step.safetensors", "pt") as file:
        wanted = {
            name: file.get_tensor(f"{case['key']}.{name}")
            for name in ("sample", "velocity", "prev_sample", "log_prob", "prev_sample_mean", "std_dev_t")
        }
    scheduler = FlowMatchEulerDiscreteScheduler(shift=case["shift"])
    scheduler.set_timesteps(case["num_steps"])
    step = sde_step(
        wanted["sample"],
        wanted["velocity"],
        sigma=case["sigma"],
        sigma_next=case["sigma_next"],
        sigma_max=float(scheduler.sigmas[1]),
        noise_level=case["noise_level"],
        next_sample=wanted["prev_sample"],
    )
    for name, got in (("log_prob", step.log_prob), ("prev_sample_mean", step.mean), ("std_dev_t", step.std_dev)):
        reference = wanted[name].reshape(got.shape)
        error = ((got - reference).abs() / reference.abs().clamp(min=1)).max().item()
        assert error <= 1e-5, f"{name} is off by {error}"


# (step, mean, next state, log-probability) of x = 1, v = -0.5, z = 0.25, ten steps of SD3.5's schedule, eta 0.7
@pytest.mark.parametrize(
    ("index", "mean", "next_value", "log_prob"),
    [(0, 0.774935, 0.949935, -0.593514), (4, 0.954615, 1.052564, -0.013170), (8, 1.076199, 1.132539, 0.539865)],
)
def test_scalar_steps_computed_by_hand(index: int, mean: float, next_value: float, log_prob: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    sigmas = [float(sigma) for sigma in scheduler.sigmas]
    common = {
        "sigma": sigmas[index],
        "sigma_next": sigmas[index + 1],
        "sigma_max": sigmas[1],
        "noise_level": 0.7,
    }
    x, v = torch.ones(1, 1), torch.full((1, 1), -0.5)
    spread = sde_step(x, v, **common).std_dev.item() * (sigmas[index] - sigmas[index + 1]) ** 0.5
    step = sde_step(x, v, **common, next_sample=torch.full((1, 1), mean + 0.25 * spread))
    assert step.mean.item() == pytest.approx(mean, abs=2e-6)
    assert step.next_sample.item() == pytest.approx(next_value, abs=2e-6)
    assert step.log_prob.item() == pytest.approx(log_prob, abs=2e-5)


def test_a_drawn_step_scores_as_it_was_drawn() -> None:
    x, v = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    common = {"sigma": 0.6, "sigma_next": 0.5, "sigma_max": 0.9, "noise_level": 0.7}
    drawn = sde_step(x, v, **common, generator=[torch.Generator().manual_seed(seed) for seed in (1, 2, 3)])
    scored = sde_step(x, v, **common, next_sample=drawn.next_sample)
    assert torch.equal(drawn.log_prob, scored.log_prob)


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    x, v = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    common = {"sigma": 0.6, "sigma_next": 0.5, "sigma_max": 0.9, "noise_level": 0.7}
    together = sde_step(x, v, **common, generator=[torch.Generator().manual_seed(seed) for seed in (1, 2, 3)])
    alone = sde_step(x[1:2], v[1:2], **common, generator=[torch.Generator().manual_seed(2)])
    assert torch.equal(together.next_sample[1:2], alone.next_sample)


def test_without_noise_the_step_is_eulers() -> None:
    x, v = torch.randn(2, 3), torch.randn(2, 3)
    step = sde_step(x, v, sigma=0.5, sigma_next=0.2, sigma_max=0.9, noise_level=0.0)
    torch.testing.assert_close(step.next_sample, x + v * (0.2 - 0.5))


@pytest.mark.parametrize(("sigma", "sigma_next"), [(0.0, 0.0), (1.2, 0.5), (0.5, 0.5), (0.5, 0.6)])
def test_impossible_noise_levels_are_refused(sigma: float, sigma_next: float) -> None:
    with pytest.raises(ValueError, match="sigma must lie in"):
        sde_step(torch.ones(1, 1), torch.ones(1, 1), sigma=sigma, sigma_next=sigma_next, sigma_max=0.9, noise_level=0.7)


def _advantage_cases() -> list[dict]:
    return [json.loads(line) for line in (GOLDEN / "flow_grpo_advantages.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", _advantage_cases())
def test_advantages_equal_the_reference(case: dict) -> None:
    got = group_advantages(case["rewards"], case["prompts"], global_std=case["global_std"])
    np.testing.assert_allclose(got, case["advantages"], rtol=0, atol=1e-9)


def test_advantages_by_hand() -> None:
    got = group_advantages([1, 0, 0.5, 0.5], [0, 0, 1, 1], global_std=True)
    np.testing.assert_allclose(got, [1.413814, -1.413814, 0, 0], atol=1e-6)


def test_equal_rewards_teach_nothing_whatever_rounding_does() -> None:
    rewards = [1 - 1 / 3] * 12 + [0.0, 1.0]  # the mean of the twelve is not exactly their value
    got = group_advantages(rewards, [0] * 12 + [1, 1], global_std=True)
    assert not got[:12].any()
    assert got[12:].any()


def test_a_sample_without_reward_takes_its_group_out_of_every_mean() -> None:
    rewards, groups = np.array([1.0, 0.0, np.nan, 5.0]), np.array([0, 0, 1, 1])
    got = epoch_advantages(rewards, groups, np.array([True, True, False, True]), global_std=True)
    np.testing.assert_allclose(got, [0.5 / 0.5001, -0.5 / 0.5001, 0, 0])


def test_rewards_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 are not"):
        group_advantages([1.0, float("nan")], [0, 0], global_std=True)
