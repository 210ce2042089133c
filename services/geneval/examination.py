"""One look at a batch of images: detect, keep what counts, name the colours that are asked for, judge.

All of the service's scores are readings of the same examination. Samples that cannot be judged become `Failed` before
any model runs; the others are not affected.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from assay.outcomes import Detection, Failed
from assay.serving.scorer import Sample
from assay.tasks import GenEvalTask
from services.geneval.colors import ClipColors, ColorQuestion
from services.geneval.detectors.detector import DetectedObject, Detector
from services.geneval.rules import RuleSettings, Verdict, judge, keep
from services.geneval.task_check import TaskProblem, check_task


@dataclass(frozen=True)
class Examination:
    """What was found in one image, and what the rules say of it; `compat` is the reward server's reading."""

    detections: tuple[Detection, ...]
    verdict: Verdict
    compat: Verdict


@dataclass
class _Case:
    """One sample on its way: its kept objects by class, and the colours named so far by (class, rank)."""

    task: GenEvalTask
    image: NDArray[np.uint8]
    kept: dict[str, tuple[DetectedObject, ...]] = field(default_factory=dict)
    colors: dict[tuple[str, int], str] = field(default_factory=dict)


class Examiner:
    """Examines samples with one detector, one colour classifier and one set of rules.

    Args:
        detector: finds the objects.
        colors: names their colours; None refuses tasks that ask for a colour.
        rules: thresholds and limits.
    """

    def __init__(self, detector: Detector, colors: ClipColors | None, rules: RuleSettings) -> None:
        self._detector = detector
        self._colors = colors
        self._rules = rules

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The classes that tasks may name."""
        return self._detector.vocabulary

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        """What decides the examinations, by name."""
        colors = self._colors.fingerprint_parts if self._colors else {"colors": "none"}
        return {**self._detector.fingerprint_parts, **colors, "rules": repr(self._rules)}

    def examine(self, samples: Sequence[Sample]) -> list[Examination | Failed]:
        """One result a sample, in order."""
        admitted = [self._admit(sample) for sample in samples]
        cases = [case for case in admitted if isinstance(case, _Case)]
        if cases:
            self._detect(cases)
            self._name_colors(cases)
        return [self._judge(case) if isinstance(case, _Case) else case for case in admitted]

    def _admit(self, sample: Sample) -> _Case | Failed:
        try:
            task = self._checked_task(sample)
        except TaskProblem as problem:
            return Failed("INVALID_ARGUMENT", problem.reason, str(problem))
        return _Case(task, sample.images[0])

    def _checked_task(self, sample: Sample) -> GenEvalTask:
        if sample.task is None:
            raise TaskProblem("MISSING_TASK", "task", None, "a GenEvalTask")
        if not isinstance(sample.task, GenEvalTask):
            raise TaskProblem("WRONG_TASK_TYPE", "task", type(sample.task).__name__, "GenEvalTask")
        if len(sample.images) != 1:
            raise TaskProblem("WRONG_IMAGE_COUNT", "images", f"{len(sample.images)} images", "exactly one image")
        check_task(sample.task, vocabulary=self.vocabulary, max_objects=self._rules.max_objects)
        if self._colors is None:
            for index, clause in enumerate(sample.task.include):
                if clause.color is not None:
                    allowed = "none: this service runs without a colour classifier"
                    raise TaskProblem("COLORS_NOT_SERVED", f"include[{index}].color", clause.color, allowed)
        return sample.task

    def _detect(self, cases: Sequence[_Case]) -> None:
        """Look at each image once, however many tasks ask about it."""
        asked = [(case.image.shape, case.image.tobytes()) for case in cases]
        images = {identity: case.image for identity, case in zip(asked, cases, strict=True)}
        found = dict(zip(images, self._detector.detect(list(images.values())), strict=True))
        for identity, case in zip(asked, cases, strict=True):
            case.kept = keep(found[identity], case.task.tag, self._rules)

    def _name_colors(self, cases: Sequence[_Case]) -> None:
        """Name the colours that the rules will look at, those of all images together."""
        asked = [(case, label, rank) for case in cases for label, rank in _objects_in_question(case)]
        if not asked or self._colors is None:
            return
        questions = [ColorQuestion(case.image, case.kept[label][rank]) for case, label, rank in asked]
        for (case, label, rank), color in zip(asked, self._colors.name_colors(questions), strict=True):
            case.colors[label, rank] = color

    def _judge(self, case: _Case) -> Examination:
        kept = {
            label: tuple(
                Detection(item.label, item.confidence, item.box, case.colors.get((label, rank)))
                for rank, item in enumerate(objects)
            )
            for label, objects in case.kept.items()
        }
        return Examination(
            detections=tuple(item for group in kept.values() for item in group),
            verdict=judge(case.task, kept, self._rules),
            compat=judge(case.task, kept, self._rules, compat=True),
        )


def _objects_in_question(case: _Case) -> list[tuple[str, int]]:
    """(class, rank) of the objects whose colour decides something: the first `count`, where there are that many."""
    ranks = {
        (clause.class_name, rank)
        for clause in case.task.include
        if clause.color is not None and len(case.kept.get(clause.class_name, ())) >= clause.count
        for rank in range(clause.count)
    }
    return sorted(ranks)
