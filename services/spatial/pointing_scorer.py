"""The scorers `correspondence` and `difference`: the model points, and the point is held against a mask."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from assay.outcomes import Evidence, Failed, Outcome, Scored
from assay.questions import Template, after_images
from assay.serving.fingerprint import digest_code, digest_parts
from assay.serving.scorer import Limits, Sample, ScorerInfo
from assay.tasks import PointingTask
from assay.vision_language.code_digest import CODE
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.texts import RefusedError, check_text
from assay.vision_language.writer import Writer, Written
from services.spatial.frames import Frame
from services.spatial.pointing.answer import Asked, NotVisible, Pointing, Points
from services.spatial.pointing.families import FAMILIES, FamilyName
from services.spatial.pointing.reading import read_pointing
from services.spatial.truth import Truth

#: Of an image: two views of some four million pixels side by side.
MAX_PIXELS = 2 * 2048 * 2048
# Of a text that points time and again, and of one that does not end.
MAX_EVIDENCE_POINTS, MAX_EVIDENCE_CHARACTERS = 64, 4000
#: By scorer and number of views, the question that is asked if the caller has none.
QUESTIONS = {
    "correspondence": {1: "correspondence_concat", 2: "correspondence"},
    "difference": {2: "difference"},
}
_COUNTS = {
    "correspondence": "3 (reference, query, mask) or 2 (side by side, mask)",
    "difference": "3 (original, edited, mask)",
}
_CODE = {"code": digest_code(Path(__file__).parent), **CODE}


@dataclass(frozen=True)
class _Case:
    """One sample on its way."""

    inquiry: Inquiry
    asked: Asked
    frame: Frame
    truth: Truth


class PointingScorer:
    """Scores one pair of views a sample; see `assay.serving.scorer.Scorer`.

    Args:
        name: key of `QUESTIONS`.
        writer: may be shared by several scorers.
        family: how the model points.
        max_new_tokens: the most it may write.
        templates: by the names in `QUESTIONS`.
        limits: admission limits.
    """

    def __init__(
        self,
        name: Literal["correspondence", "difference"],
        writer: Writer,
        family: FamilyName,
        max_new_tokens: int,
        templates: Mapping[str, Template],
        limits: Limits | None = None,
    ) -> None:
        self._name = name
        self._writer = writer
        self._family = FAMILIES[family]
        self._max_new_tokens = max_new_tokens
        self._templates = {views: templates[question] for views, question in QUESTIONS[name].items()}
        digests = {f"template {views}": template.digest for views, template in self._templates.items()}
        settings = {"family": family, "max_new_tokens": str(max_new_tokens), "scorer": name}
        self._info = ScorerInfo(
            name=name,
            fingerprint=digest_parts({**writer.fingerprint_parts, **digests, **settings, **_CODE}),
            value_range=(0.0, 1.0),
            deterministic=writer.deterministic,
            tasks=("PointingTask",),
            limits=limits or Limits(max_pixels_per_image=MAX_PIXELS),
        )

    @property
    def info(self) -> ScorerInfo:
        return self._info

    def warm_up_sample(self) -> Sample:
        """Two grey views and an empty mask."""
        grey, black = np.full((64, 64, 3), 128, np.uint8), np.zeros((64, 64, 3), np.uint8)
        return Sample("warm-up", (grey, grey, black), "", PointingTask())

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        admitted = [self._admit(sample) for sample in batch]
        inquiries = [case.inquiry for case in admitted if isinstance(case, _Case)]
        texts = iter(self._writer.write(inquiries, self._max_new_tokens) if inquiries else ())
        return [case if isinstance(case, Failed) else self._outcome(case, next(texts)) for case in admitted]

    def _admit(self, sample: Sample) -> _Case | Failed:
        try:
            return self._case(sample)
        except RefusedError as refused:
            return refused.failed()

    def _case(self, sample: Sample) -> _Case:
        task = sample.task
        if not isinstance(task, PointingTask):
            raise RefusedError("WRONG_TASK_TYPE", f"task is a {type(task).__name__}; allowed: PointingTask")
        if len(sample.images) - 1 not in self._templates:
            raise RefusedError(
                "WRONG_IMAGE_COUNT", f"images: {len(sample.images)} images; allowed: {_COUNTS[self._name]}"
            )
        *views, mask = sample.images
        frame = Frame(side_by_side=len(views) == 1)
        truth = Truth.of_image(mask)
        _check_size(views[-1], truth, frame)
        size = self._writer.input_size(views[-1]) if self._family.needs_input_size else None
        inquiry = Inquiry(tuple(views), (self._question(task, frame, len(views)),))
        return _Case(inquiry, Asked(len(views), size), frame, truth)

    def _question(self, task: PointingTask, frame: Frame, views: int) -> str:
        if task.question:
            check_text("task.question", task.question, self._writer.special_text, "what to point at, in words")
            return after_images(task.question, views)
        return self._templates[views].fill(form=self._family.form.replace("{picture}", frame.asked_picture))

    def _outcome(self, case: _Case, text: Written) -> Outcome:
        if isinstance(text, Failed):
            return text
        said = read_pointing(text, self._family, case.asked)
        components, reason = _judged(said, case)
        hit_or_rightly_none = components["hit"] if case.truth.is_visible else float(isinstance(said, NotVisible))
        points = said.points[:MAX_EVIDENCE_POINTS] if isinstance(said, Points) else ()
        width, height = case.truth.width, case.truth.height
        in_pixels = tuple((x * width, y * height) for x, y in (case.frame.to_query(*point) for point in points))
        reason += f"; points are in pixels of the query, {width} x {height}"
        return Scored(
            hit_or_rightly_none,
            components,
            Evidence(reason=reason, judge_text=text[-MAX_EVIDENCE_CHARACTERS:], points=in_pixels),
        )


def _check_size(view: np.ndarray, truth: Truth, frame: Frame) -> None:
    """Refuse a mask that is not of the query's very size: turned or scaled otherwise, it would be another truth."""
    height, width = view.shape[:2]
    wanted = (width / 2 if frame.side_by_side else width, height)
    if (truth.width, truth.height) != wanted:
        query = "half of the picture's" if frame.side_by_side else "the query's"
        raise RefusedError(
            "MASK_SIZE_MISMATCH",
            f"images: the mask is {truth.width} x {truth.height}; allowed: {query} {width} x {height}, so "
            f"{wanted[0]:g} x {wanted[1]}",
        )


def _judged(said: Pointing, case: _Case) -> tuple[dict[str, float], str]:
    """Components, and why, in words."""
    truth = case.truth
    components = {"hit": 0.0, "parsed": 1.0, "visible_true": float(truth.is_visible)}
    if isinstance(said, NotVisible):
        right = "is not to be seen, as was said" if not truth.is_visible else "is to be seen, other than was said"
        return components | {"visible_predicted": 0.0}, f"the target {right}"
    if not isinstance(said, Points):
        return components | {"parsed": 0.0}, f"the text cannot be read: {said.problem}"
    components["visible_predicted"] = 1.0
    x, y = case.frame.to_query(*said.points[0])
    if x < 0:
        return components, "the first point lies on the reference"
    components |= {"x": x, "y": y, "hit": float(truth.is_hit(x, y)), **_distances(x, y, truth)}
    if not truth.is_visible:
        return components, "the target is not to be seen, other than was said"
    return (
        components,
        f"the first point of {len(said.points)} lies {'on' if components['hit'] else 'beside'} the target",
    )


def _distances(x: float, y: float, truth: Truth) -> dict[str, float]:
    """From a place to the target's point, in shares and in pixels; none without a target."""
    if truth.point is None:
        return {}
    across, down = x - truth.point[0], y - truth.point[1]
    return {"l2": math.hypot(across, down), "l2_px": math.hypot(across * truth.width, down * truth.height)}
