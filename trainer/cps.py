"""Coefficients-preserving sampling (CPS): a stochastic step that leaves exactly the noise that the schedule asks for.

arXiv 2509.05952. Flow-GRPO's own step injects more noise than its schedule takes away, so that images of few steps keep
some; here the coefficients of noise old and new always make up sigma_next.
"""

import math

import torch
from torch import Tensor

from trainer.stochastic_step import Noise, SdeStep, check_noise_levels, column, draw_noise


def cps_step(
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
    """Step, or score a given `next_sample`; arguments as for `StochasticStep` (`sigma_max` is not used). In float32:

        s    = sigma_next * sin(noise_level * pi / 2)
        mean = (1 - sigma_next) (x - sigma v) + sqrt(sigma_next^2 - s^2) (x + (1 - sigma) v)
        x'   = mean + s z,   z ~ N(0, I)

    `log_prob` is the mean over the dimensions of -(x' - mean)^2: not divided by the variance, as in the published code,
    and so finite everywhere; clip ranges that suit it are smaller.
    """
    x, v = sample.float(), velocity.float()
    now, after, eta = (column(value, x) for value in (sigma, sigma_next, noise_level))
    check_noise_levels(now, after)
    s = after * torch.sin(eta * math.pi / 2)
    mean = (1 - after) * (x - now * v) + torch.sqrt(after**2 - s**2) * (x + (1 - now) * v)
    if next_sample is None:
        next_sample = mean + s * draw_noise(x.shape, generator, x.device) if bool((eta > 0).any()) else mean
    log_prob = -((next_sample.detach().float() - mean) ** 2).flatten(1).mean(1)
    return SdeStep(next_sample.float(), log_prob, mean, s.flatten(), s.flatten())
