"""A scorer whose numbers a test can compute: how red a picture is. A black one cannot be judged."""

from collections.abc import Sequence

from assay.outcomes import Failed, Outcome, Scored
from assay.serving.scorer import Sample, ScorerInfo


class RedJudge:
    """Mean of the red channel over 255, in [0, 1]; `seen` has all samples that clients sent.

    `fail_at`: the index, in order of arrival, of one sample that fails whatever it looks like.
    """

    def __init__(self, name: str = "redness", fail_at: int | None = None) -> None:
        self._name, self._fail_at = name, fail_at
        self.seen: list[Sample] = []

    @property
    def info(self) -> ScorerInfo:
        return ScorerInfo(self._name, "3" * 16, (0.0, 1.0), True, ("GenEvalTask",))

    def score(self, batch: Sequence[Sample]) -> Sequence[Outcome]:
        return [self._one(sample) for sample in batch]

    def _one(self, sample: Sample) -> Outcome:
        if sample.id != "warm-up":
            self.seen.append(sample)
        value = float(sample.images[0][..., 0].mean()) / 255
        if not sample.images[0].any() or len(self.seen) - 1 == self._fail_at:
            return Failed("INVALID_ARGUMENT", "NOT_RED", "this picture cannot be judged")
        found = {f"found/{clause.class_name}": 1.0 for clause in sample.task.include}  # type: ignore[union-attr]
        return Scored(value, {"correct": float(value > 0.5), "strict_correct": float(value > 0.9), **found})
