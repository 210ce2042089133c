"""One step of a sampler that draws from a Gaussian: the result, its log-probability, and the Gaussian.

Rectified flow: x_sigma = (1 - sigma) x_0 + sigma noise; the network predicts the velocity noise - x_0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

#: A source of noise: none, one for a whole batch, or one a sample; a sample without one gets no noise.
Noise = torch.Generator | Sequence[torch.Generator | None] | None


@dataclass(frozen=True)
class SdeStep:
    """One step of a stochastic sampler.

    Args:
        next_sample: (batch, ...) the state after the step.
        log_prob: (batch,) log-density of `next_sample`, averaged (not summed) over all but the batch dimension;
            not finite, and not to be read, where the step is deterministic.
        mean: (batch, ...) mean of the step's Gaussian.
        std_dev: (batch,) the diffusion coefficient s.
        transition_std: (batch,) deviation of the step's Gaussian.
    """

    next_sample: Tensor
    log_prob: Tensor
    mean: Tensor
    std_dev: Tensor
    transition_std: Tensor


class StochasticStep(Protocol):
    """A step from noise level `sigma` to `sigma_next`; or, given `next_sample`, the score of an earlier result.

    Args:
        sample: (batch, ...) current state x.
        velocity: (batch, ...) predicted velocity v.
        sigma: current noise level in (0, 1], one number or (batch,).
        sigma_next: next noise level in [0, sigma), likewise.
        sigma_max: the schedule's second noise level, likewise.
        noise_level: eta, one number or (batch,); 0 gives the deterministic Euler step.
        next_sample: (batch, ...) an earlier result to be scored under `velocity`; drawn if None.
        generator: where noise comes from.

    Raises:
        ValueError: a noise level out of range, or not decreasing.
    """

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
    ) -> SdeStep: ...


def draw_noise(shape: torch.Size | tuple[int, ...], generator: Noise, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise; with one generator a sample, each row is independent of the batch that it is drawn in."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator, device=generator.device if generator else device).to(device)
    row_shape = tuple(shape[1:])
    rows = [torch.zeros(row_shape) if own is None else torch.randn(row_shape, generator=own) for own in generator]
    return torch.stack(rows).to(device)


def column(value: float | Tensor, like: Tensor) -> Tensor:
    """A number or (batch,) tensor as (batch, 1, ..., 1) float32, to broadcast against `like`."""
    flat = torch.as_tensor(value, dtype=torch.float32, device=like.device).reshape(-1)
    return flat.expand(len(like)).reshape(-1, *[1] * (like.dim() - 1))


def check_noise_levels(sigma: Tensor, sigma_next: Tensor) -> None:
    """Raise ValueError unless 0 <= sigma_next < sigma <= 1 everywhere."""
    if not bool(((sigma > 0) & (sigma <= 1) & (sigma_next >= 0) & (sigma_next < sigma)).all()):
        raise ValueError(
            "sigma must lie in (0, 1] and sigma_next in [0, sigma); "
            f"got {sigma.flatten().tolist()} and {sigma_next.flatten().tolist()}"
        )
