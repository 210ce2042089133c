"""The one protocol to implement to host a reward model: `Scorer`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from assay.outcomes import Outcome
from assay.tasks import Task


@dataclass(frozen=True)
class Limits:
    """What one call may hold, and which images are accepted (all inclusive)."""

    max_items: int = 64
    max_pixels_per_image: int = 2048 * 2048
    max_bytes_per_call: int = 64 * 1024 * 1024
    min_image_side: int = 8
    max_image_side: int = 8192


@dataclass(frozen=True)
class ScorerInfo:
    """What a client may know of a scorer.

    Args:
        name: name by which requests choose the scorer.
        fingerprint: hex digest over weights, preprocessing, thresholds and code version; changes when scores may.
        value_range: (lowest, highest) possible `Scored.value`.
        deterministic: the same item always gets the same score, alone or in a batch.
        tasks: names of the accepted task classes, e.g. ("GenEvalTask",). Where `OutcomeTask` is among them, an item
            with a prompt and no task is one.
        limits: admission limits.
    """

    name: str
    fingerprint: str
    value_range: tuple[float, float]
    deterministic: bool
    tasks: tuple[str, ...]
    limits: Limits = Limits()


@dataclass(frozen=True)
class Sample:
    """One item to score: decoded images, each (height, width, 3) uint8 RGB, its prompt and its task.

    The arrays are read-only views of what came over the wire; copy them before changing them.
    """

    id: str
    images: tuple[NDArray[np.uint8], ...]
    prompt: str
    task: Task | None


class Scorer(Protocol):
    """A reward model. Called from one thread, one batch at a time.

    `score` returns one outcome a sample, in order. A sample it cannot judge becomes `Failed` (an unknown class,
    a missing task); an exception means that the batch as a whole failed, and the host searches for the sample at fault.
    """

    @property
    def info(self) -> ScorerInfo: ...

    def score(self, batch: Sequence[Sample]) -> Sequence[Outcome]: ...


@runtime_checkable
class HasWarmUpSample(Protocol):
    """A scorer that says which sample makes it run its model; others are warmed up with a grey image.

    A server is ready only when every scorer has scored its warm-up sample.
    """

    def warm_up_sample(self) -> Sample: ...
