"""A deterministic sampler of second order: DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2), as DiffusionNFT samples.

With the clean sample that a state promises, D = x - sigma v, and l = log((1 - sigma) / sigma), of the step before l-:

    D'  = D + (l' - l) / (2 (l - l-)) (D - D-)          of the first step and the last one: D
    x'  = sigma' / sigma x + (1 - sigma') (1 - exp(l - l')) D'

At sigma = 1, l is minus infinity: the second step has no D to go by, either. One pass a step, as Euler's method.
"""

import torch
from torch import Tensor

from trainer.stochastic_step import Noise, SdeStep, check_noise_levels, column


class SecondOrderSteps:
    """The steps of one trajectory, in order: a `trainer.stochastic_step.StochasticStep` without noise.

    Its log-probabilities are not to be read.
    """

    def __init__(self) -> None:
        self._before: tuple[Tensor, Tensor] | None = None  # D and l of the step before

    def __call__(
        self,
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
        x, v = sample.float(), velocity.float()
        now, after, eta = (column(value, x) for value in (sigma, sigma_next, noise_level))
        check_noise_levels(now, after)
        if next_sample is not None or bool((eta > 0).any()):
            raise ValueError("the second-order sampler adds no noise and scores no earlier result")
        clean, log_ratio = x - now * v, torch.log((1 - now) / now)
        promised = clean
        if self._before is not None and bool((after > 0).all()):
            earlier, log_ratio_before = self._before
            rise = torch.log((1 - after) / after) - log_ratio
            promised = clean + rise / (2 * (log_ratio - log_ratio_before)) * (clean - earlier)
        self._before = clean, log_ratio
        kept = after / now  # exp(l - l') is kept (1 - sigma) / (1 - sigma'), also where an l is infinite
        mean = kept * x + ((1 - after) - kept * (1 - now)) * promised
        nothing = torch.zeros(len(x), device=x.device)
        return SdeStep(mean, nothing, mean, nothing, nothing)
