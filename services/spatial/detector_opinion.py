"""A second opinion on a planar relation, from detected boxes and GenEval's rule. It abstains rather than guess.

That an object of a class that the detector knows is not found is no doubt: without it there is no relation, as GenEval
has it, too. Of several objects of a class all must agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assay.outcomes import Detection
from services.geneval.detectors.detector import DetectedObject, Detector
from services.geneval.rules import RuleSettings, keep
from services.spatial.relations import PLANAR_RELATIONS, beyond_margin, holds
from services.spatial.statement import Statement


@dataclass(frozen=True)
class Opinion:
    """What the boxes say.

    Args:
        passes: whether the relation holds; None: it abstains.
        margin: how far the subject lies beyond the margin, as a share of the image's side along the axis: of several
            the least; None where one is not there.
        abstains_for: why it abstains, in words; empty if it does not.
        detections: of both classes.
    """

    passes: bool | None
    margin: float | None
    abstains_for: str
    detections: tuple[Detection, ...] = ()


class DetectorOpinions:
    """Opinions of one detector.

    Args:
        detector: finds the objects.
        threshold: an object counts if its confidence is greater.
        position_margin: see `services.geneval.rules.RuleSettings`.
    """

    def __init__(self, detector: Detector, threshold: float, position_margin: float) -> None:
        self._detector = detector
        self._rules = RuleSettings(threshold=threshold, position_margin=position_margin)

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        parts = {f"detector {name}": part for name, part in self._detector.fingerprint_parts.items()}
        return {**parts, "rules": repr((self._rules.threshold, self._rules.position_margin))}

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, tuple[DetectedObject, ...]]]:
        """What counts in each image, by class."""
        return [keep(objects, "position", self._rules) for objects in self._detector.detect(images)]

    def opinion(
        self, statement: Statement, kept: dict[str, tuple[DetectedObject, ...]], image: NDArray[np.uint8]
    ) -> Opinion:
        """The opinion on a statement about an image in which that was found."""
        subjects, references = (kept.get(name, ()) for name in (statement.subject, statement.reference))
        names = dict.fromkeys((statement.subject, statement.reference))
        detections = tuple(
            Detection(one.label, one.confidence, one.box) for name in names for one in kept.get(name, ())
        )
        if doubt := self._doubt(statement):
            return Opinion(None, None, doubt, detections)
        share = self._rules.position_margin
        pairs = [(subject.box, reference.box) for subject in subjects for reference in references]
        verdicts = {holds(statement.relation, *pair, share) for pair in pairs} or {False}
        if len(verdicts) > 1:
            found = f"{len(subjects)} of {statement.subject!r} and {len(references)} of {statement.reference!r}"
            return Opinion(None, None, f"the detector found {found}, and it holds of some alone", detections)
        side = image.shape[1] if statement.relation in ("left of", "right of") else image.shape[0]
        margins = [beyond_margin(statement.relation, *pair, share) / side for pair in pairs]
        return Opinion(verdicts.pop(), min(margins, default=None), "", detections)

    def _doubt(self, statement: Statement) -> str:
        """Why there can be no opinion; empty if there can."""
        if statement.relation not in PLANAR_RELATIONS:
            return f"boxes do not tell {statement.relation!r}"
        if not statement.is_plain:
            return "boxes tell neither colours nor several objects apart"
        if statement.subject == statement.reference:
            return f"boxes do not tell one {statement.subject!r} from the other"
        for name in (statement.subject, statement.reference):
            if name not in self._detector.vocabulary:
                return f"the detector knows no {name!r}"
        return ""
