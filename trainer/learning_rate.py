"""How the learning rate goes over a run: constant, or up and down again along a cosine."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LearningRateSchedule:
    """The learning rate as a share of the configured one. It depends on the step alone, so that a run can be resumed.

    Args:
        kind: `constant`, or `cosine`: down to 0 at the end.
        warmup: share of the steps in which it rises, evenly, to all of it.
        num_steps: optimizer steps of the whole run.
    """

    kind: Literal["constant", "cosine"] = "constant"
    warmup: float = 0.0
    num_steps: int = 1

    def __call__(self, step: int) -> float:
        """At optimizer step number `step` (from 0), in (0, 1]."""
        rising = round(self.warmup * self.num_steps)
        if step < rising:
            return (step + 1) / (rising + 1)
        if self.kind == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, self.num_steps - rising)))
