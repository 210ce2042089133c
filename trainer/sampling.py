"""Drawing images as a stochastic policy: the Flow-GRPO step, its log-probability, guidance, and whole trajectories.

Rectified flow: x_sigma = (1 - sigma) x_0 + sigma noise; the network predicts the velocity noise - x_0. Formulas are
those of Flow-GRPO (arXiv 2505.05470, section 4 and its released code of July 2025), computed in float32.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from generators.embeddings import PromptEmbeddings


class VelocityModel(Protocol):
    """What sampling needs of a generator."""

    @property
    def latent_shape(self) -> tuple[int, int, int]: ...

    def predict_velocity(self, latents: Tensor, sigma: Tensor, prompts: PromptEmbeddings) -> Tensor: ...


@dataclass(frozen=True)
class SdeStep:
    """One step of the stochastic sampler.

    Args:
        next_sample: (batch, ...) the state after the step.
        log_prob: (batch,) log-density of `next_sample`, averaged (not summed) over all but the batch dimension.
        mean: (batch, ...) mean of the step's Gaussian.
        std_dev: (batch,) the diffusion coefficient s; the Gaussian's deviation is s * sqrt(sigma - sigma_next).
    """

    next_sample: Tensor
    log_prob: Tensor
    mean: Tensor
    std_dev: Tensor


def sde_step(
    sample: Tensor,
    velocity: Tensor,
    *,
    sigma: float | Tensor,
    sigma_next: float | Tensor,
    sigma_max: float | Tensor,
    noise_level: float,
    next_sample: Tensor | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> SdeStep:
    """Step from noise level `sigma` to `sigma_next`, or score a given `next_sample`.

        s    = noise_level * sqrt(sigma / (1 - sigma)), with sigma_max in the denominator where sigma is 1
        mean = x (1 + s^2 dt / (2 sigma)) + v (1 + s^2 (1 - sigma) / (2 sigma)) dt,   dt = sigma_next - sigma < 0
        x'   = mean + s sqrt(-dt) z,   z ~ N(0, I)

    Args:
        sample: (batch, ...) current state x.
        velocity: (batch, ...) predicted velocity v.
        sigma: current noise level in (0, 1], one number or (batch,).
        sigma_next: next noise level in [0, sigma), likewise.
        sigma_max: the schedule's second noise level, likewise.
        noise_level: eta; 0 gives the deterministic Euler step, whose log_prob is not finite and must not be read.
        next_sample: (batch, ...) an earlier result to be scored under `velocity`; drawn if None.
        generator: source of z: one for the batch, or one for each sample (on the CPU).

    Raises:
        ValueError: a noise level out of range, or not decreasing.
    """
    x, v = sample.float(), velocity.float()
    now, after, top = (_column(value, x) for value in (sigma, sigma_next, sigma_max))
    if not bool(((now > 0) & (now <= 1) & (after >= 0) & (after < now)).all()):
        raise ValueError(f"sigma must lie in (0, 1] and sigma_next in [0, sigma); got {sigma} and {sigma_next}")
    dt = after - now
    s = noise_level * torch.sqrt(now / (1 - torch.where(now == 1, top, now)))
    mean = x * (1 + s**2 / (2 * now) * dt) + v * (1 + s**2 * (1 - now) / (2 * now)) * dt
    std = s * torch.sqrt(-dt)
    if next_sample is None:
        next_sample = mean + std * draw_noise(x.shape, generator, x.device) if noise_level > 0 else mean
    density = -((next_sample.detach().float() - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
    return SdeStep(next_sample.float(), density.flatten(1).mean(1), mean, s.flatten())


def draw_noise(
    shape: torch.Size | tuple[int, ...],
    generator: torch.Generator | Sequence[torch.Generator] | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal noise; with one generator a sample, each row is independent of the batch that it is drawn in."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator, device=generator.device if generator else device).to(device)
    rows = [torch.randn(tuple(shape[1:]), generator=own) for own in generator]
    return torch.stack(rows).to(device)


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

    Args:
        latents: (batch, C, H, W).
        sigma: (batch,) noise levels.
        prompts: embeddings of the batch.
        negative: embedding of the empty prompt (batch 1); not used when `guidance_scale` is 1.
        guidance_scale: g; 1 means no guidance and half the work.
        detach_unconditional: let no gradient flow through v_u.
    """
    if guidance_scale == 1 or negative is None:
        return model.predict_velocity(latents, sigma, prompts)
    both = PromptEmbeddings.concatenate([negative.repeat(len(latents)), prompts])
    doubled = model.predict_velocity(torch.cat([latents, latents]), torch.cat([sigma, sigma]), both)
    unconditional, conditional = doubled.chunk(2)
    if detach_unconditional:
        unconditional = unconditional.detach()
    return unconditional + guidance_scale * (conditional - unconditional)


@dataclass(frozen=True)
class Trajectory:
    """A batch of sampled paths from noise to image.

    Args:
        states: (batch, steps + 1, C, H, W), from pure noise to the clean latents.
        log_probs: (batch, steps); meaningless where the step was deterministic.
        sigmas: (steps + 1,) noise levels.
    """

    states: Tensor
    log_probs: Tensor
    sigmas: Tensor


@torch.no_grad()
def sample_trajectory(
    model: VelocityModel,
    prompts: PromptEmbeddings,
    negative: PromptEmbeddings | None,
    *,
    sigmas: Sequence[float],
    guidance_scale: float,
    noise_level: float,
    generators: Sequence[torch.Generator],
) -> Trajectory:
    """Sample one image for each prompt.

    Args:
        prompts: embeddings (batch).
        negative: embedding of the empty prompt, or None without guidance.
        sigmas: the schedule, from 1 to 0.
        guidance_scale: 1 for none.
        noise_level: eta of `sde_step`; 0 for the deterministic sampler.
        generators: one a sample; initial noise and all steps are drawn from it.
    """
    device = prompts.tokens.device
    levels = torch.tensor(sigmas, dtype=torch.float32, device=device)
    latents = draw_noise((len(generators), *model.latent_shape), generators, device)
    states, log_probs = [latents], []
    for index in range(len(sigmas) - 1):
        sigma = levels[index].expand(len(latents))
        velocity = guided_velocity(model, latents, sigma, prompts, negative, guidance_scale)
        step = sde_step(
            latents,
            velocity,
            sigma=sigma,
            sigma_next=levels[index + 1].expand(len(latents)),
            sigma_max=levels[1],
            noise_level=noise_level,
            generator=generators,
        )
        latents = step.next_sample
        states.append(latents)
        log_probs.append(step.log_prob)
    return Trajectory(torch.stack(states, 1), torch.stack(log_probs, 1), levels)


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """A number or (batch,) tensor as (batch or 1, 1, ..., 1) float32, to broadcast against `like`."""
    column = torch.as_tensor(value, dtype=torch.float32, device=like.device).reshape(-1)
    return column.expand(len(like)).reshape(-1, *[1] * (like.dim() - 1))
