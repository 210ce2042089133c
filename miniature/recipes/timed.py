"""Training for a given time: a warm-up, then a cosine down to (nearly) nothing when the minutes are over."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """One step to take.

    Args:
        step: number of steps taken before.
        share: of the time that is over, in [0, 1).
        rate: what to multiply the learning rate with.
    """

    step: int
    share: float
    rate: float


def timed_cosine(minutes: float, warm_up_steps: int, floor: float = 0.0) -> Iterator[Tick]:
    """A tick for each step until the minutes are over; the rate ends at `floor`."""
    began, step = time.monotonic(), 0
    while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
        cosine = 0.5 + 0.5 * math.cos(math.pi * share)
        yield Tick(step, share, min(1.0, (step + 1) / warm_up_steps) * (floor + (1 - floor) * cosine))
        step += 1
