"""A scorer that speaks the spatial service's contract and answers as a test wants."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from assay.outcomes import Evidence, Failed, Outcome, Scored
from assay.serving.scorer import Sample, ScorerInfo
from assay.tasks import PointingTask
from pipelines.spatial_tasks.points import Point, Size, read_answer

#: Given a sample (views and, last, the mask), the text of an answer.
Answering = Callable[[Sample], str | Failed]


class PointingJudge:
    """Reads `[(x, y)]` or `NOT_VISIBLE` in the frame of the last picture before the mask.

    Args:
        name: `correspondence` or `difference`.
        answer: how it answers.
        version: part of its fingerprint.
    """

    def __init__(self, name: str, answer: Answering, version: str = "1") -> None:
        self.info = ScorerInfo(name, version * 16, (0.0, 1.0), True, ("PointingTask",))
        self._answer = answer
        self.asked: list[Sample] = []

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        self.asked += [sample for sample in batch if sample.id != "warm-up"]
        return [self._judge(sample) for sample in batch]

    def warm_up_sample(self) -> Sample:
        picture = np.zeros((8, 8, 3), np.uint8)
        return Sample("warm-up", (picture, picture, picture), "", PointingTask("?"))

    def _judge(self, sample: Sample) -> Outcome:
        text = self._answer(sample)
        if isinstance(text, Failed):
            return text
        *pictures, mask = sample.images
        answer = read_answer(text)
        parts = {"parsed": float(answer.is_read), "visible_true": float(mask.any()), "hit": 0.0}
        if answer.is_read:
            parts["visible_predicted"] = float(answer.point is not None)
        points = []
        if answer.point:
            point = in_query(answer.point, pictures, mask)
            points.append((point.x * mask.shape[1], point.y * mask.shape[0]))
            if point.x >= 0:  # else it lies on the reference
                parts |= {"x": point.x, "y": point.y, "hit": float(is_hit(point, mask))}
        right = parts["hit"] or (answer.says_not_visible and not mask.any())
        return Scored(float(right), parts, Evidence(judge_text=text, points=tuple(points)))


def in_query(point: Point, pictures: Sequence[NDArray[np.uint8]], mask: NDArray[np.uint8]) -> Point:
    """Of a concatenated picture, its right part is the query."""
    if len(pictures) == 2:
        return point
    whole, query = (Size(one.shape[1], one.shape[0]) for one in (pictures[0], mask))
    x = (point.x * whole.width - (whole.width - query.width)) / query.width
    return Point(x, point.y * whole.height / query.height)


def is_hit(point: Point, mask: NDArray[np.uint8]) -> bool:
    height, width = mask.shape[:2]
    if not (0 <= point.x <= 1 and 0 <= point.y <= 1):
        return False
    return bool(mask[min(int(point.y * height), height - 1), min(int(point.x * width), width - 1)].any())


def knows(sample: Sample) -> str:
    """The right answer, looked up in the mask: one of its pixels' middles."""
    *pictures, mask = sample.images
    rows, columns = np.nonzero(mask[..., 0])
    if not len(rows):
        return "NOT_VISIBLE"
    middle = len(rows) // 2
    width, height = mask.shape[1], mask.shape[0]
    x, y = (columns[middle] + 0.5) / width, (rows[middle] + 0.5) / height
    if len(pictures) == 1:
        whole = pictures[0]
        x = (whole.shape[1] - width + x * width) / whole.shape[1]
        y = y * height / whole.shape[0]
    return f"[({x:.3f}, {y:.3f})]"
