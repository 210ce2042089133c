"""Drawing images from a generator: guidance, whole trajectories, and which of their steps are kept for training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from assay.config import ConfigModel
from generators.embeddings import PromptEmbeddings
from trainer.cps import cps_step
from trainer.flow_sde import sde_step
from trainer.second_order import SecondOrderSteps
from trainer.stochastic_step import StochasticStep, draw_noise

#: `sampling.sde_type` -> the step that adds noise.
STOCHASTIC_STEPS: dict[str, StochasticStep] = {"flow": sde_step, "cps": cps_step}
Solver = Literal["euler", "dpm2"]


class SamplingConfig(ConfigModel):
    """How rollouts are drawn. Images per epoch = groups_per_epoch * group_size."""

    num_steps: int = Field(10, ge=2)
    guidance_scale: float = Field(4.5, ge=0, description="1 = no guidance; of Show-o 0, for it counts from there")
    noise_level: float = Field(0.7, gt=0, description="eta of the stochastic sampler")
    sde_type: Literal["flow", "cps"] = Field("flow", description="kind of stochastic step")
    solver: Solver = Field("euler", description="of steps without noise; dpm2: second order, see trainer.second_order")
    group_size: int = Field(24, ge=2, description="images per prompt and group")
    groups_per_epoch: int = Field(48, ge=1, description="over all processes")
    micro_batch_size: int = Field(9, ge=1, description="images sampled, scored and trained at once, per process")
    same_latent: bool = Field(
        False,
        description="a group starts from one noise, so that its rewards differ by the stochastic steps alone; "
        "the authors of Flow-GRPO found different noise better",
    )
    one_step_off_policy: bool = Field(
        False, description="sample the next epoch before this one's update, so that no one waits for rewards"
    )


def make_step(solver: Solver, sde_type: Literal["flow", "cps"] = "flow") -> StochasticStep:
    """How one trajectory takes its steps."""
    return SecondOrderSteps() if solver == "dpm2" else STOCHASTIC_STEPS[sde_type]


class VelocityModel(Protocol):
    """What sampling needs of a generator."""

    @property
    def latent_shape(self) -> tuple[int, ...]: ...

    @property
    def embeds_guidance(self) -> bool: ...

    def predict_velocity(
        self, latents: Tensor, sigma: Tensor, prompts: PromptEmbeddings, guidance_scale: float | None = None
    ) -> Tensor: ...


def guided_velocity(
    model: VelocityModel,
    latents: Tensor,
    sigma: Tensor,
    prompts: PromptEmbeddings,
    negative: PromptEmbeddings | None,
    guidance_scale: float,
    detach_unconditional: bool = False,
) -> Tensor:
    """Velocity under classifier-free guidance: v_u + g (v_c - v_u), both branches in one forward pass.

    A model that embeds guidance (FLUX.1-dev) is given the scale as a number, and has no second branch.

    Args:
        latents: (batch, ...).
        sigma: (batch,) noise levels.
        prompts: embeddings of the batch.
        negative: embedding of the empty prompt (batch 1), or None for no second branch.
        guidance_scale: g; 1 means no guidance and half the work.
        detach_unconditional: let no gradient flow through v_u.
    """
    if model.embeds_guidance:
        return model.predict_velocity(latents, sigma, prompts, guidance_scale)
    if guidance_scale == 1 or negative is None:
        return model.predict_velocity(latents, sigma, prompts)
    both = PromptEmbeddings.concatenate([negative.matching(prompts), prompts])
    doubled = model.predict_velocity(torch.cat([latents, latents]), torch.cat([sigma, sigma]), both)
    unconditional, conditional = doubled.chunk(2)
    if detach_unconditional:
        unconditional = unconditional.detach()
    return unconditional + guidance_scale * (conditional - unconditional)


@dataclass(frozen=True)
class StepPlan:
    """Where noise is added, and which steps are kept for training, for each sample of a batch.

    Args:
        noise_levels: (batch, steps) eta of every step; 0 is the deterministic Euler step.
        trained: (batch, T) indices of the steps that are kept; T may be 0. Their eta is above 0.
        keeps_means: of the kept steps, keep the means of their Gaussians, too.
    """

    noise_levels: Tensor
    trained: Tensor
    keeps_means: bool = False

    @classmethod
    def deterministic(cls, batch: int, num_steps: int) -> "StepPlan":
        """No noise, and nothing kept but the result."""
        return cls(torch.zeros(batch, num_steps), torch.empty(batch, 0, dtype=torch.long))


@dataclass(frozen=True)
class Trajectory:
    """A batch of sampled paths from noise to image: the result, and the kept steps.

    Args:
        clean: (batch, ...) the clean latents at the end.
        sigmas: (steps + 1,) noise levels.
        plan: what was kept; T below is its number of trained steps.
        states: (batch, T, ...) states before the kept steps.
        next_states: (batch, T, ...) states after them.
        means: (batch, T, ...) means of the Gaussians that they were drawn from; empty where the plan keeps none.
        log_probs: (batch, T).
    """

    clean: Tensor
    sigmas: Tensor
    plan: StepPlan
    states: Tensor
    next_states: Tensor
    means: Tensor
    log_probs: Tensor

    @classmethod
    def without_path(cls, clean: Tensor) -> "Trajectory":
        """Of a sampler that has no noise levels: the result alone."""
        none = torch.empty(len(clean), 0, device=clean.device)
        return cls(clean, none[0], StepPlan.deterministic(len(clean), 0), none, none, none, none)


@torch.no_grad()
def sample_trajectory(
    model: VelocityModel,
    prompts: PromptEmbeddings,
    negative: PromptEmbeddings | None,
    *,
    sigmas: Sequence[float],
    guidance_scale: float,
    generators: Sequence[torch.Generator],
    starts: Sequence[torch.Generator] | None = None,
    plan: StepPlan | None = None,
    step: StochasticStep = sde_step,
) -> Trajectory:
    """Sample one image for each prompt.

    Args:
        prompts: embeddings (batch).
        negative: embedding of the empty prompt, or None without guidance.
        sigmas: the schedule, from 1 to 0.
        guidance_scale: 1 for none.
        generators: one a sample; its initial noise and the noise of its stochastic steps are drawn from it.
        starts: one a sample, for its initial noise alone; None: `generators`.
        plan: where noise is added and what is kept; None for the deterministic sampler.
        step: how noise is added.
    """
    device, batch = prompts.tokens.device, len(generators)
    plan = plan or StepPlan.deterministic(batch, len(sigmas) - 1)
    noise_levels = plan.noise_levels.to(device)
    levels = torch.tensor(sigmas, dtype=torch.float32, device=device)
    latents = draw_noise((batch, *model.latent_shape), starts or generators, device)
    trained = plan.trained.to(device)
    states = torch.empty(*trained.shape, *model.latent_shape, device=device)
    next_states = torch.empty_like(states)
    means = torch.empty_like(states) if plan.keeps_means else states.new_empty(0)
    log_probs = torch.empty(trained.shape, device=device)
    for index, eta in enumerate(plan.noise_levels.T.tolist()):
        sigma = levels[index].expand(batch)
        velocity = guided_velocity(model, latents, sigma, prompts, negative, guidance_scale)
        taken = step(
            latents,
            velocity,
            sigma=sigma,
            sigma_next=levels[index + 1].expand(batch),
            sigma_max=levels[1],
            noise_level=noise_levels[:, index],
            # Only a stochastic step draws: a sample's noise must not depend on the plans of the others in its batch.
            generator=[own if level else None for own, level in zip(generators, eta, strict=True)],
        )
        row, column = (trained == index).nonzero(as_tuple=True)
        states[row, column], next_states[row, column] = latents[row], taken.next_sample[row]
        log_probs[row, column] = taken.log_prob[row]
        if plan.keeps_means:
            means[row, column] = taken.mean[row]
        latents = taken.next_sample
    return Trajectory(latents, levels, plan, states, next_states, means, log_probs)
