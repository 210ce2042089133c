"""A reward that any random pipeline can be trained on, and that never ties: how red a picture is."""

import time
from collections.abc import Sequence

import numpy as np

from assay.outcomes import Failed, Outcome, Scored
from assay.serving.scorer import Sample, ScorerInfo


class Redness:
    """Mean of red minus mean of green, in [0, 1].

    Args:
        fail_every: every n-th sample has no score.
        unknown: samples with one of these words in their prompt have none.
    """

    def __init__(self, fail_every: int = 0, delay_s: float = 0.0, unknown: Sequence[str] = ()) -> None:
        self._fail_every, self._delay_s, self._unknown, self.seen = fail_every, delay_s, unknown, 0

    @property
    def info(self) -> ScorerInfo:
        return ScorerInfo("redness", "1" * 16, (0.0, 1.0), True, ("GenEvalTask",))

    def score(self, batch: Sequence[Sample]) -> Sequence[Outcome]:
        time.sleep(self._delay_s)
        return [self._one(sample) for sample in batch]

    def _one(self, sample: Sample) -> Outcome:
        self.seen += 1
        fails = self._fail_every and self.seen % self._fail_every == 0
        if fails or any(word in sample.prompt for word in self._unknown):
            return Failed("INVALID_ARGUMENT", "NOT_RED", "this picture cannot be judged")
        red, green = (sample.images[0][..., channel].mean() / 255 for channel in (0, 1))
        value = float(np.clip(0.5 + 4 * (red - green), 0, 1))
        return Scored(value, {"strict_correct": float(value > 0.5)})
