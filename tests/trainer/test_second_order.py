"""The second-order sampler: beside diffusers' own, on a flow whose end is known, and where it cannot be."""

from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from linear_model import LinearModel, no_prompts

from assay.config import load_config
from assay.errors import ConfigError
from trainer.config import TrainConfig
from trainer.sampling import make_step, sample_trajectory
from trainer.second_order import SecondOrderSteps

CONFIGS = Path(__file__).parents[2] / "configs/train"


def _sigmas(num_steps: int) -> list[float]:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(num_steps)
    return [float(sigma) for sigma in scheduler.sigmas]


@pytest.mark.parametrize("num_steps", [2, 5, 10])
def test_steps_are_those_of_diffusers(num_steps: int) -> None:
    """Whose log of 0 at sigma = 1 is that of 1e-10 or so: hence a tolerance."""
    sigmas, generator = _sigmas(num_steps), torch.Generator().manual_seed(0)
    theirs = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", final_sigmas_type="zero", solver_order=2
    )
    theirs.set_timesteps(num_steps)
    theirs.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    mine = other = torch.randn(2, 3, 4, generator=generator)
    step = SecondOrderSteps()
    for index in range(num_steps):
        velocity = torch.randn(mine.shape, generator=generator)  # any: the same for both
        mine = step(
            mine,
            velocity,
            sigma=sigmas[index],
            sigma_next=sigmas[index + 1],
            sigma_max=sigmas[1],
            noise_level=0.0,
        ).next_sample
        other = theirs.step(velocity, theirs.timesteps[index], other).prev_sample
        torch.testing.assert_close(mine, other.float(), atol=1e-5, rtol=1e-5)


class _Gaussian:
    """The velocity of a flow from noise to a Gaussian of deviation 0.2 at 1, exactly: its end is 1 + 0.2 start."""

    latent_shape = (2,)
    embeds_guidance = False

    def predict_velocity(self, latents: torch.Tensor, sigma: torch.Tensor, *_: object) -> torch.Tensor:
        level = sigma[:, None]
        variance = (1 - level) ** 2 * 0.04 + level**2
        off = latents - (1 - level)
        return (level - (1 - level) * 0.04) / variance * off - 1


def test_a_flow_whose_end_is_known_is_met_more_closely_than_by_euler() -> None:
    found = {}
    for solver in ("euler", "dpm2"):
        trajectory = sample_trajectory(
            _Gaussian(),  # type: ignore[arg-type]
            no_prompts(4),
            None,
            sigmas=_sigmas(10),
            guidance_scale=1.0,
            generators=[torch.Generator().manual_seed(seed) for seed in range(4)],
            step=make_step(solver),  # type: ignore[arg-type]
        )
        starts = torch.stack([torch.randn(2, generator=torch.Generator().manual_seed(seed)) for seed in range(4)])
        found[solver] = (trajectory.clean - (1 + 0.2 * starts)).abs().max().item()
    assert found["dpm2"] < 0.3 * found["euler"]


def test_one_trajectory_does_not_go_by_what_another_left() -> None:
    def once() -> torch.Tensor:
        generators = [torch.Generator().manual_seed(1)]
        common = {"sigmas": _sigmas(4), "guidance_scale": 1.0, "step": make_step("dpm2")}
        return sample_trajectory(LinearModel(), no_prompts(1), None, generators=generators, **common).clean

    assert torch.equal(once(), once())


def test_noise_is_not_for_it() -> None:
    with pytest.raises(ValueError, match="adds no noise"):
        SecondOrderSteps()(
            torch.ones(1, 1), torch.ones(1, 1), sigma=0.5, sigma_next=0.4, sigma_max=0.9, noise_level=0.7
        )
    message = r"sampling\.solver = dpm2; allowed with algorithm flow_grpo, whose steps have noise: euler"
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, CONFIGS / "miniature_counting.yaml", ["sampling.solver=dpm2"])
    with pytest.raises(ConfigError, match=r"evaluation\.solver with algorithm showo_dpo"):
        load_config(TrainConfig, CONFIGS / "miniature_showo_dpo.yaml", ["evaluation.solver=dpm2"])
    assert load_config(TrainConfig, CONFIGS / "miniature_nft.yaml", ["sampling.solver=dpm2"]).sampling
