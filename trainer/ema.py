"""Exponential moving average of the trained parameters."""

import torch

from trainer.policy_copy import PolicyCopy


class Ema(PolicyCopy):
    """Keeps the average e <- e + (1 - d)(p - e), with d = min((1 + s) / (10 + s), decay) at optimizer step s.

    Args:
        parameters: the live parameters.
        decay: upper bound of d.
        every_steps: optimizer steps between updates.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], decay: float, every_steps: int) -> None:
        super().__init__(parameters)
        self._decay, self._every_steps = decay, every_steps

    def decay_at(self, step: int) -> float:
        return min((1 + step) / (10 + step), self._decay)

    def update(self, step: int) -> None:
        """Call once after optimizer step number `step` (from 0)."""
        if (step + 1) % self._every_steps == 0:
            self.follow(self.decay_at(step))
