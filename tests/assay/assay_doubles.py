"""The scorer that these tests serve: small, real, and told by prompts how to misbehave."""

import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from assay.outcomes import Detection, Evidence, Failed, Outcome, Scored
from assay.serving.scorer import Limits, Sample, ScorerInfo


class MeanScorer:
    """Scores the mean of the first image, in [0, 1].

    Prompts: `poison` raises, `hoard` wants more memory than there is, `exit` calls sys.exit, `refuse` fails, `nan`
    gives NaN, `sleep SECONDS` sleeps, `wait` blocks until `gate` is set. A batch of more than `fits_items` samples
    runs out of memory.
    """

    def __init__(
        self,
        name: str = "mean",
        fingerprint: str = "f1",
        tasks: tuple[str, ...] = (),
        limits: Limits | None = None,
        fits_items: int = 1000,
        deterministic: bool = True,
    ) -> None:
        limits = limits or Limits()
        self.info = ScorerInfo(name, fingerprint, (0.0, 1.0), deterministic, tasks, limits)
        self.fits_items = fits_items
        self.gate = threading.Event()
        self.batches: list[list[str]] = []

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        self.batches.append([sample.id for sample in batch])
        if len(batch) > self.fits_items:
            raise MemoryError("secret allocator text")
        return [self._score(sample) for sample in batch]

    def _score(self, sample: Sample) -> Outcome:
        match sample.prompt.split():
            case ["poison"]:
                raise ValueError("secret path /models/private.bin")
            case ["hoard"]:
                raise MemoryError("secret allocator text")
            case ["exit"]:
                raise SystemExit(3)
            case ["refuse"]:
                return Failed("INVALID_ARGUMENT", "REFUSED", "asked to refuse")
            case ["nan"]:
                return Scored(float("nan"))
            case ["sleep", seconds]:
                time.sleep(float(seconds))
            case ["wait"]:
                self.gate.wait(30)
        mean = float(sample.images[0].mean()) / 255
        height, width, _ = sample.images[0].shape
        seen = Detection("thing", 0.5, (0.0, 0.0, float(width), float(height)), "red")
        return Scored(mean, {"mean": mean, "pixels": float(width * height)}, Evidence((seen,), "because"))

    @property
    def scored_ids(self) -> list[str]:
        return [item for batch in self.batches for item in batch if item != "warm-up"]


def grey(value: int, width: int = 16, height: int = 16) -> NDArray[np.uint8]:
    """An image of one value, whose score is value / 255."""
    return np.full((height, width, 3), value, dtype=np.uint8)


def greys(count: int, **size: int) -> list[NDArray[np.uint8]]:
    return [grey(value, **size) for value in range(count)]


def plain(count: int, prompt: str = "") -> dict[str, list[object]]:
    """Prompts and tasks for `count` images."""
    return {"prompts": [prompt] * count, "tasks": [None] * count}
