"""The scorers that the service hosts, `geneval` and `counting`: readings of one examination as a reward.

Every reading carries the same components and evidence; only `value`, which is trained on, differs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assay.outcomes import Evidence, Failed, Outcome, Scored
from assay.serving.fingerprint import digest_code, digest_parts
from assay.serving.scorer import Limits, Sample, ScorerInfo
from assay.tasks import GenEvalTask, ObjectClause
from services.geneval.examination import Examination, Examiner

_CODE = digest_code(Path(__file__).parent)


@dataclass(frozen=True)
class Reading:
    """How an examination becomes a value.

    Args:
        value: the value.
        lowest: lowest possible value for a service that keeps this many objects of a class.
    """

    value: Callable[[Examination], float]
    lowest: Callable[[int], float] = lambda max_objects: 0.0


READINGS = {
    "soft": Reading(lambda examination: examination.verdict.score),
    "strict": Reading(lambda examination: float(examination.verdict.strict_correct)),
    "official": Reading(lambda examination: float(examination.verdict.correct)),
    # 1 - |n - f| / n is lowest where n = 1 and f = max_objects.
    "compat": Reading(lambda examination: examination.compat.score, lambda max_objects: min(0.0, 2.0 - max_objects)),
    "counting": Reading(lambda examination: examination.verdict.counting),
}


class GenEvalScorer:
    """Scores one image a sample against a `GenEvalTask`; see `assay.serving.scorer.Scorer`.

    Args:
        name: under which requests choose it.
        reading: key of `READINGS`.
        examiner: may be shared by several scorers.
        max_objects: number of objects kept of a class.
        limits: admission limits.
    """

    def __init__(
        self, name: str, reading: str, examiner: Examiner, *, max_objects: int, limits: Limits | None = None
    ) -> None:
        self._examiner = examiner
        self._reading = READINGS[reading]
        self._info = ScorerInfo(
            name=name,
            fingerprint=digest_parts({**examiner.fingerprint_parts, "reading": reading, "code": _CODE}),
            value_range=(self._reading.lowest(max_objects), 1.0),
            deterministic=True,
            tasks=("GenEvalTask",),
            limits=limits or Limits(),
        )

    @property
    def info(self) -> ScorerInfo:
        return self._info

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        return [
            examined if isinstance(examined, Failed) else self._scored(examined)
            for examined in self._examiner.examine(batch)
        ]

    def warm_up_sample(self) -> Sample:
        """A grey image and a task on it, so that a server can run the detector before it says that it is ready."""
        task = GenEvalTask("counting", (ObjectClause(self._examiner.vocabulary[0]),))
        return Sample("warm-up", (np.full((512, 512, 3), 128, np.uint8),), "", task)

    def _scored(self, examination: Examination) -> Scored:
        verdict = examination.verdict
        components = {
            "correct": float(verdict.correct),
            "strict_correct": float(verdict.strict_correct),
            "soft": verdict.score,
            "counting": verdict.counting,
            **{f"found/{name}": float(count) for name, count in verdict.found.items()},
        }
        evidence = Evidence(detections=examination.detections, reason=verdict.reason)
        return Scored(self._reading.value(examination), components, evidence)
