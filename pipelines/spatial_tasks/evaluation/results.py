"""What is kept of each question: the answer, judged in both ways, or why there is none."""

from dataclasses import dataclass
from typing import Any

from pipelines.spatial_tasks.evaluation.judgement import Judgement
from pipelines.spatial_tasks.evaluation.reference import ReferenceJudgement
from pipelines.spatial_tasks.points import Answer, Point, read_answer


@dataclass(frozen=True)
class Result:
    """A question and its answer.

    Args:
        number: of the row.
        id, task: the row's.
        images: as they were shown.
        query, mask: paths.
        wanted: the text that should have been answered.
        target: the wanted point in the query picture's frame; None if there is nothing to point at.
        text: what was answered; None without a score.
        point: of the answer, in the query picture's frame.
        judged: None without a score.
        reference: the same as the reference judges it.
        service_hit: what the service itself takes it for.
        target_is_on_mask: there is a wanted point if and only if the mask holds something.
        error: why there is no score; None if there is one.
    """

    number: int
    id: str
    task: str
    images: tuple[str, ...]
    query: str
    mask: str | None
    wanted: str
    target: Point | None = None
    text: str | None = None
    point: Point | None = None
    judged: Judgement | None = None
    reference: ReferenceJudgement | None = None
    service_hit: bool | None = None
    target_is_on_mask: bool = True
    error: str | None = None

    def to_row(self) -> dict[str, Any]:
        """For `results`: points in the query picture's frame."""
        judged = self.judged
        return {
            **self._known(),
            "pred_parsed": judged and {"is_not_visible": judged.says_not_visible, "coord": self.point},
            "gt": {"text": self.wanted, "is_not_visible": self.target is None, "coord": self.target},
            "l2_error": judged and judged.l2,
            "l2_px": judged and judged.l2_px,
            "success_l2_010": judged and _is_success(judged.l2, judged.visible, judged.says_not_visible),
            "hit_mask": judged.hit if judged and judged.visible else None,
        }

    def to_reference_row(self) -> dict[str, Any]:
        """For `results` as the reference has them: points as they were written."""
        found = self.reference
        wanted = read_answer(self.wanted)
        return {
            **self._known(),
            "pred_parsed": found and {"is_not_visible": found.answer.says_not_visible, "coord": found.answer.point},
            "gt": {"text": self.wanted, "is_not_visible": wanted.says_not_visible, "coord": wanted.point},
            "l2_error": found and found.l2,
            "success_l2_010": found and _is_success(found.l2, found.visible, found.answer.says_not_visible),
            "hit_mask": found and found.hit,
        }

    def _known(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "task": self.task,
            "image": list(self.images),
            "query_original": self.query,
            "mask": self.mask,
            "pred_text": self.text,
            "error": self.error,
        }


def from_json(values: dict[str, Any]) -> Result:
    """The inverse of `dataclasses.asdict`, through JSON."""
    read = dict(values)
    for name in ("target", "point"):
        read[name] = _point(values[name])
    read["images"] = tuple(values["images"])
    if values["judged"] is not None:
        read["judged"] = Judgement(**values["judged"])
    if (reference := values["reference"]) is not None:
        answer = Answer(reference["answer"]["says_not_visible"], _point(reference["answer"]["point"]))
        read["reference"] = ReferenceJudgement(**{**reference, "answer": answer})
    return Result(**read)


def _point(values: list[float] | None) -> Point | None:
    return None if values is None else Point(*values)


def _is_success(l2: float | None, visible: bool, says_not_visible: bool) -> bool:
    return l2 is not None and l2 <= 0.1 if visible else says_not_visible
