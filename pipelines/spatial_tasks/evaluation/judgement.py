"""One answer against its target: whether the point is on the mask, and how far it is from where it should be.

All points are shares of the query picture's width and height. A point in [0, 1] lies on pixel min(floor(x * width),
width - 1); one outside lies on none.
"""

import math
from dataclasses import dataclass

from pipelines.spatial_tasks.masks import Mask, size_of
from pipelines.spatial_tasks.points import Answer, Point, Size


@dataclass(frozen=True)
class Target:
    """What should have been answered.

    Args:
        point: None if there is nothing to point at.
        mask: (height, width) of the query picture.
    """

    point: Point | None
    mask: Mask


@dataclass(frozen=True)
class Judgement:
    """An answer, judged.

    Args:
        visible: there is something to point at.
        is_read: the answer could be read.
        says_not_visible: it says that there is nothing to point at.
        hit: there is, and the point lies on it.
        l2: distance to the target in shares of width and height; None unless both are points.
        l2_px: the same in pixels of the query picture.
    """

    visible: bool
    is_read: bool
    says_not_visible: bool
    hit: bool = False
    l2: float | None = None
    l2_px: float | None = None

    @property
    def says_visible(self) -> bool:
        return self.is_read and not self.says_not_visible

    @property
    def right(self) -> bool:
        """A hit, or rightly none."""
        return self.hit or (self.says_not_visible and not self.visible)


def judge(answer: Answer, target: Target) -> Judgement:
    """Judge an answer whose point is in the query picture's frame."""
    visible, size = target.point is not None, size_of(target.mask)
    if answer.point is None or target.point is None:
        return Judgement(visible, answer.is_read, answer.says_not_visible)
    return Judgement(
        visible,
        is_read=True,
        says_not_visible=False,
        hit=lies_on(answer.point, target.mask),
        l2=distance(answer.point, target.point),
        l2_px=distance(answer.point, target.point, size),
    )


def lies_on(point: Point, mask: Mask) -> bool:
    """Whether the pixel of a point is the mask's."""
    if not (0 <= point.x <= 1 and 0 <= point.y <= 1):
        return False
    size = size_of(mask)
    column, row = min(int(point.x * size.width), size.width - 1), min(int(point.y * size.height), size.height - 1)
    return bool(mask[row, column])


def distance(one: Point, other: Point, size: Size = Size(1, 1)) -> float:  # noqa: B008
    """Euclidean, in pixels of a picture of that size."""
    return math.hypot((one.x - other.x) * size.width, (one.y - other.y) * size.height)
