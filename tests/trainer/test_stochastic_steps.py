"""The CPS step by its golden numbers and its own law, and plans of where noise is added."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from linear_model import LinearModel, no_prompts

from trainer.algorithms.fast import WindowConfig, window_plan
from trainer.cps import cps_step
from trainer.flow_sde import sde_step
from trainer.sampling import StepPlan, guided_velocity, sample_trajectory


def _sigmas(num_steps: int) -> list[float]:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(num_steps)
    return [float(sigma) for sigma in scheduler.sigmas]


# (step, mean, next state, log-probability) of x = 1, v = -0.5, z = 0.25, ten steps of SD3.5's schedule, eta 0.8
@pytest.mark.parametrize(
    ("index", "mean", "next_value", "log_prob"),
    [(0, 0.356502, 0.584787, -0.0521137), (4, 0.604053, 0.772218, -0.0282796), (8, 1.130618, 1.132741, -4.50668e-6)],
)
def test_cps_steps_computed_by_hand(index: int, mean: float, next_value: float, log_prob: float) -> None:
    sigmas = _sigmas(10)
    common = {"sigma": sigmas[index], "sigma_next": sigmas[index + 1], "sigma_max": sigmas[1], "noise_level": 0.8}
    x, v = torch.ones(1, 1), torch.full((1, 1), -0.5)
    spread = cps_step(x, v, **common).transition_std.item()
    step = cps_step(x, v, **common, next_sample=torch.full((1, 1), mean + 0.25 * spread))
    assert step.mean.item() == pytest.approx(mean, abs=2e-6)
    assert step.next_sample.item() == pytest.approx(next_value, abs=2e-6)
    assert step.log_prob.item() == pytest.approx(log_prob, rel=1e-3)


def test_cps_deviations_of_ten_steps() -> None:
    sigmas = _sigmas(10)
    expected = [0.913137, 0.868646, 0.815714, 0.751685, 0.672662, 0.572679, 0.442123, 0.264440, 0.008492, 0]
    x = torch.ones(1, 1)
    found = [
        cps_step(x, x, sigma=now, sigma_next=after, sigma_max=sigmas[1], noise_level=0.8).transition_std.item()
        for now, after in pairwise(sigmas)
    ]
    assert found == pytest.approx(expected, abs=2e-6)


@given(sigma=st.floats(0.2, 1.0), share=st.floats(0.1, 0.9), eta=st.floats(0.0, 1.0))
def test_cps_keeps_the_noise_that_the_schedule_asks_for(sigma: float, share: float, eta: float) -> None:
    """Of x = (1 - sigma) a + sigma e with the true velocity e - a: the new state has (1 - sigma') a, and noise of
    deviation sigma' in all, whatever eta is."""
    after = sigma * share
    clean, noise = torch.tensor([[3.0]]), torch.tensor([[-2.0]])
    x, v = (1 - sigma) * clean + sigma * noise, noise - clean
    step = cps_step(x, v, sigma=sigma, sigma_next=after, sigma_max=0.9, noise_level=eta)
    kept = (step.mean - (1 - after) * clean) / noise  # coefficient of the old noise
    assert kept.item() ** 2 + step.transition_std.item() ** 2 == pytest.approx(after**2, abs=1e-5)


@pytest.mark.parametrize("step", [sde_step, cps_step])
def test_each_row_has_its_own_noise_level(step) -> None:
    torch.manual_seed(0)
    x, v = torch.randn(2, 4), torch.randn(2, 4)
    common = {"sigma": 0.6, "sigma_next": 0.4, "sigma_max": 0.9}
    generators = [None, torch.Generator().manual_seed(3)]
    mixed = step(x, v, **common, noise_level=torch.tensor([0.0, 0.7]), generator=generators)
    torch.testing.assert_close(mixed.next_sample[0], x[0] + v[0] * (0.4 - 0.6))
    alone = step(x[1:], v[1:], **common, noise_level=0.7, generator=[torch.Generator().manual_seed(3)])
    assert torch.equal(mixed.next_sample[1:], alone.next_sample)
    assert torch.equal(mixed.log_prob[1:], alone.log_prob)


@given(
    size=st.integers(1, 4), first=st.integers(0, 3), room=st.integers(0, 5), seeds=st.lists(st.integers(0, 2**63 - 1))
)
def test_windows_lie_where_they_may_and_groups_share_them(size: int, first: int, room: int, seeds: list[int]) -> None:
    last = first + size - 1 + room
    num_steps = last + 2
    window = WindowConfig(size=size, first=first, last=last)
    window.check(num_steps)
    doubled = [seed for seed in seeds for _ in range(2)]
    if not doubled:
        return
    plan = window_plan(window, doubled, num_steps, 0.7)
    assert torch.equal(plan.trained[::2], plan.trained[1::2])
    assert plan.trained.min() >= first
    assert plan.trained.max() <= last
    noisy = plan.noise_levels > 0
    assert noisy.sum(1).tolist() == [size] * len(doubled)
    assert noisy.gather(1, plan.trained).all()


def test_all_places_of_a_window_are_drawn() -> None:
    plan = window_plan(WindowConfig(size=2, first=1, last=4), range(200), 8, 0.7)
    assert set(plan.trained[:, 0].tolist()) == {1, 2, 3}


@pytest.mark.parametrize(("detach", "expected"), [(False, 1.0), (True, 3.0)])
def test_the_unconditional_branch_may_have_no_gradient(detach: bool, expected: float) -> None:
    """Both branches of this model are v = w x: (1 - g) w x + g w x. Detached, dv / dw is g x in place of x."""
    model, latents = LinearModel(0.5), torch.tensor([[1.0]])
    velocity = guided_velocity(
        model, latents, torch.ones(1), no_prompts(1), no_prompts(1), guidance_scale=3.0, detach_unconditional=detach
    )
    assert velocity.item() == pytest.approx(0.5)
    velocity.sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.item() == pytest.approx(expected)


def test_a_trajectory_keeps_the_steps_that_are_trained() -> None:
    """Against the whole path, stepped by hand."""
    sigmas = [1.0, 0.8, 0.5, 0.2, 0.0]
    levels = torch.tensor([[0, 0.7, 0.7, 0], [0.7, 0, 0, 0]])
    plan = StepPlan(levels, torch.tensor([[2, 1], [0, 0]]), keeps_means=True)
    found = sample_trajectory(
        LinearModel(),
        no_prompts(2),
        None,
        sigmas=sigmas,
        guidance_scale=1.0,
        generators=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        plan=plan,
    )
    for row, seed in enumerate((5, 6)):
        own = torch.Generator().manual_seed(seed)
        state = torch.randn(1, 2, 3, generator=own)
        path, means = [state], []
        for index, eta in enumerate(plan.noise_levels[row].tolist()):
            step = sde_step(
                state,
                0.5 * state,
                sigma=sigmas[index],
                sigma_next=sigmas[index + 1],
                sigma_max=0.8,
                noise_level=eta,
                generator=[own],
            )
            state = step.next_sample
            path.append(state)
            means.append(step.mean)
        torch.testing.assert_close(found.clean[row], state[0])
        for column, index in enumerate(plan.trained[row].tolist()):
            torch.testing.assert_close(found.states[row, column], path[index][0])
            torch.testing.assert_close(found.next_states[row, column], path[index + 1][0])
            torch.testing.assert_close(found.means[row, column], means[index][0])
            assert math.isfinite(found.log_probs[row, column])
