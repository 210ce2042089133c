"""Exponential moving average of the trained parameters."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """Keeps the average e <- e + (1 - d)(p - e), with d = min((1 + s) / (10 + s), decay) at optimizer step s.

    Args:
        parameters: the live parameters.
        decay: upper bound of d.
        every_steps: optimizer steps between updates.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], decay: float, every_steps: int) -> None:
        self._parameters = parameters
        self._decay, self._every_steps = decay, every_steps
        self.averages: list[Tensor] = [parameter.detach().clone() for parameter in parameters]

    def decay_at(self, step: int) -> float:
        return min((1 + step) / (10 + step), self._decay)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Call once after optimizer step number `step` (from 0)."""
        if (step + 1) % self._every_steps == 0:
            torch._foreach_lerp_(self.averages, list(self._parameters), 1 - self.decay_at(step))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the live parameters hold the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, parameter in zip(self.averages, self._parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)
