"""What scoring one image gives: `Scored`, or `Failed`. A failed score is never a number.

Nothing in Assay turns a `Failed` into a value unless a failure policy was named (`assay.rewards`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Detection:
    """One detected object: box (x1, y1, x2, y2) in pixels of the scored image, confidence in [0, 1]."""

    label: str
    confidence: float
    box: tuple[float, float, float, float]
    color: str | None = None


@dataclass(frozen=True)
class Evidence:
    """Why a score is what it is: what was detected, and the reason in words."""

    detections: tuple[Detection, ...] = ()
    reason: str = ""
    judge_text: str = ""
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Scored:
    """A score. `value` is what is trained on; `components` holds every named part of it."""

    value: float
    components: Mapping[str, float] = field(default_factory=dict)
    evidence: Evidence | None = None


@dataclass(frozen=True)
class Failed:
    """No score.

    Args:
        code: canonical gRPC status name, e.g. `INVALID_ARGUMENT`, `UNAVAILABLE`, `INTERNAL`.
        reason: machine-readable reason in UPPER_SNAKE (AIP-193), e.g. `IMAGE_UNDECODABLE`.
        message: one sentence for a person; names the field, the value and what is allowed.
    """

    code: str
    reason: str
    message: str


Outcome = Scored | Failed
