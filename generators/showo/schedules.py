"""How much of an image is still masked: from all of it at progress 0 to nothing at progress 1 (MaskGIT's schedules).

cosine   cos(pi t / 2)            (Chang et al., 2022, arXiv 2202.04200, section 3.3)
linear   1 - t
powK     1 - t ** K               pow2, pow0.5, ...
sigmoid  (s(3) - s(6 t - 3)) / (s(3) - s(-3)), s the logistic function
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from assay.errors import ConfigError

LEAST = 1e-6  # all but the cosine stay above it
SIGMOID_RANGE = 3.0


def mask_schedule(name: str) -> Callable[[Tensor], Tensor]:
    """The schedule of a name: from progress in [0, 1], any shape, to the masked share.

    Raises:
        ConfigError: no schedule has that name.
    """
    if name in NAMED:
        return NAMED[name]
    try:
        power = float(name.removeprefix("pow")) if name.startswith("pow") else math.nan
    except ValueError:
        power = math.nan
    if not power > 0:
        raise ConfigError(f"schedule is {name!r}; allowed: {', '.join(NAMED)}, and powK with a number K above 0")
    return lambda progress: (1 - progress**power).clamp(LEAST, 1)


def num_masked(schedule: Callable[[Tensor], Tensor], step: int, num_steps: int, num_tokens: int) -> int:
    """How many of `num_tokens` are masked again after step `step`, counted from 0, before the limits of the sampler.

    In float32, as the published numbers are; at the last step the cosine gives -1.
    """
    progress = torch.tensor((step + 1) / num_steps, dtype=torch.float32)
    return int((num_tokens * schedule(progress)).floor())


def _cosine(progress: Tensor) -> Tensor:
    return torch.cos(progress * (math.pi / 2))


def _linear(progress: Tensor) -> Tensor:
    return (1 - progress).clamp(LEAST, 1)


def _sigmoid(progress: Tensor) -> Tensor:
    ends = torch.tensor([-SIGMOID_RANGE, SIGMOID_RANGE]).sigmoid()
    there = (progress * 2 * SIGMOID_RANGE - SIGMOID_RANGE).sigmoid()
    return ((ends[1] - there) / (ends[1] - ends[0])).clamp(LEAST, 1)


NAMED: dict[str, Callable[[Tensor], Tensor]] = {"cosine": _cosine, "linear": _linear, "sigmoid": _sigmoid}
