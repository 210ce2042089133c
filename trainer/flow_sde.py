"""The stochastic step of Flow-GRPO (arXiv 2505.05470, section 4, and its released code of July 2025)."""

import math

import torch
from torch import Tensor

from trainer.stochastic_step import Noise, SdeStep, check_noise_levels, column, draw_noise


def sde_step(
    sample: Tensor,
    velocity: Tensor,
    *,
    sigma: float | Tensor,
    sigma_next: float | Tensor,
    sigma_max: float | Tensor,
    noise_level: float | Tensor,
    next_sample: Tensor | None = None,
    generator: Noise = None,
) -> SdeStep:
    """Step, or score a given `next_sample`; arguments as for `StochasticStep`. Computed in float32:

        s    = noise_level * sqrt(sigma / (1 - sigma)), with sigma_max in the denominator where sigma is 1
        mean = x (1 + s^2 dt / (2 sigma)) + v (1 + s^2 (1 - sigma) / (2 sigma)) dt,   dt = sigma_next - sigma < 0
        x'   = mean + s sqrt(-dt) z,   z ~ N(0, I)

    `log_prob` is the mean over the dimensions of that Gaussian's log-density at x'.
    """
    x, v = sample.float(), velocity.float()
    now, after, top, eta = (column(value, x) for value in (sigma, sigma_next, sigma_max, noise_level))
    check_noise_levels(now, after)
    dt = after - now
    s = eta * torch.sqrt(now / (1 - torch.where(now == 1, top, now)))
    mean = x * (1 + s**2 / (2 * now) * dt) + v * (1 + s**2 * (1 - now) / (2 * now)) * dt
    std = s * torch.sqrt(-dt)
    if next_sample is None:
        next_sample = mean + std * draw_noise(x.shape, generator, x.device) if bool((eta > 0).any()) else mean
    density = -((next_sample.detach().float() - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
    return SdeStep(next_sample.float(), density.flatten(1).mean(1), mean, s.flatten(), std.flatten())
