"""Assay: score generated images with reward services, and train on the scores.

The names below are the public interface of the client; they are imported when first used, so that a command that
needs none of them starts fast. Hosting a scorer is in `assay.serving`, test doubles are in `assay.testing`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.client import RewardClient
    from assay.config import ConfigModel, load_config
    from assay.errors import (
        AssayError,
        AuthenticationError,
        ClientClosedError,
        ConfigError,
        DeadlineExceededError,
        FingerprintMismatchError,
        InvalidRequestError,
        RequestTooLargeError,
        ScorerNotFoundError,
        ScoringFailedError,
        ServiceFailedError,
        ServiceUnavailableError,
    )
    from assay.outcomes import Detection, Evidence, Failed, Outcome, Scored
    from assay.rewards import RewardBatch, RewardConfig, RewardSet
    from assay.tasks import GenEvalTask, ObjectClause, OutcomeTask, PointingTask, PotentialTask, SpatialTask, Task

_HOMES = {
    "assay.client": ("RewardClient",),
    "assay.config": ("ConfigModel", "load_config"),
    "assay.errors": (
        "AssayError",
        "AuthenticationError",
        "ClientClosedError",
        "ConfigError",
        "DeadlineExceededError",
        "FingerprintMismatchError",
        "InvalidRequestError",
        "RequestTooLargeError",
        "ScorerNotFoundError",
        "ScoringFailedError",
        "ServiceFailedError",
        "ServiceUnavailableError",
    ),
    "assay.outcomes": ("Detection", "Evidence", "Failed", "Outcome", "Scored"),
    "assay.rewards": ("RewardBatch", "RewardConfig", "RewardSet"),
    "assay.tasks": (
        "GenEvalTask",
        "ObjectClause",
        "OutcomeTask",
        "PointingTask",
        "PotentialTask",
        "SpatialTask",
        "Task",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AssayError",
    "AuthenticationError",
    "ClientClosedError",
    "ConfigError",
    "ConfigModel",
    "DeadlineExceededError",
    "Detection",
    "Evidence",
    "Failed",
    "FingerprintMismatchError",
    "GenEvalTask",
    "InvalidRequestError",
    "ObjectClause",
    "Outcome",
    "OutcomeTask",
    "PointingTask",
    "PotentialTask",
    "RequestTooLargeError",
    "RewardBatch",
    "RewardClient",
    "RewardConfig",
    "RewardSet",
    "Scored",
    "ScorerNotFoundError",
    "ScoringFailedError",
    "ServiceFailedError",
    "ServiceUnavailableError",
    "SpatialTask",
    "Task",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'assay' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
