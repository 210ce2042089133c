"""How schedules of rectified-flow models are shifted towards noise, the more so the larger the image.

Fixed:    sigma = s u / (1 + (s - 1) u)                                  (SD3, arXiv 2403.03206, section 5.3.2)
By size:  sigma = exp(mu) / (exp(mu) + 1 / u - 1), mu from the tokens    (FLUX; diffusers' "exponential" shift)
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def mu_of_size(
    scheduler: Any, calculate_shift: Callable[..., float], num_tokens: int, *, default_max_shift: float
) -> float | None:
    """What a pipeline with `calculate_shift` shifts its schedule by; None where the scheduler's shift is fixed.

    Args:
        calculate_shift: the pipeline's own function.
        num_tokens: of one image.
        default_max_shift: what the pipeline takes if the scheduler's configuration has none.
    """
    config = scheduler.config
    if not config.get("use_dynamic_shifting", False):
        return None
    return calculate_shift(
        num_tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", default_max_shift),
    )


def shifted(scheduler: Any, u: Tensor, mu: float | None) -> Tensor:
    """Shift `u` in (0, 1), of any shape, as the scheduler does: by `mu`, or by its fixed shift where `mu` is None."""
    if mu is None:
        return scheduler.shift * u / (1 + (scheduler.shift - 1) * u)
    moved: Tensor = scheduler.time_shift(mu, 1.0, u)
    return moved
