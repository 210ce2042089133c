"""Answers as text, `[(0.523, 0.412)]` or `NOT_VISIBLE`, and how points of a concatenated picture are those of its
right half."""

import re
from dataclasses import dataclass
from typing import NamedTuple

NOT_VISIBLE = "NOT_VISIBLE"
# The reference's reading of an answer: a list of exactly one pair without signs or exponents.
_ANSWER = re.compile(r"\[\(\s*([0-9.]+)\s*,\s*([0-9.]+)\s*\)\]")


class Point(NamedTuple):
    """A place in a picture, x from the left and y from the top, as shares of its width and height."""

    x: float
    y: float


@dataclass(frozen=True)
class Answer:
    """What a text says.

    Args:
        says_not_visible: that there is nothing to point at.
        point: None if it says that, or nothing that can be read.
    """

    says_not_visible: bool
    point: Point | None

    @property
    def is_read(self) -> bool:
        return self.says_not_visible or self.point is not None


def write_answer(point: Point | None) -> str:
    """Text of a point, with three decimals, or of there being none."""
    return NOT_VISIBLE if point is None else f"[({point.x:.3f}, {point.y:.3f})]"


def read_answer(text: str) -> Answer:
    """Read a text as the reference does: `NOT_VISIBLE` anywhere in it wins, else the first list of one pair counts."""
    if NOT_VISIBLE in text.upper():
        return Answer(True, None)
    found = _ANSWER.search(text)
    try:
        return Answer(False, Point(float(found[1]), float(found[2])) if found else None)
    except ValueError:  # such as 0.5.1
        return Answer(False, None)


@dataclass(frozen=True)
class Size:
    """Of a picture, in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


@dataclass(frozen=True)
class SideBySide:
    """Two pictures put side by side, both at the top; the lower one is padded below.

    Args:
        left: size of the reference picture.
        right: size of the query picture.
    """

    left: Size
    right: Size

    @property
    def whole(self) -> Size:
        return Size(self.left.width + self.right.width, max(self.left.height, self.right.height))

    def from_left(self, point: Point) -> Point:
        """A point of the left picture, in the frame of the whole."""
        return Point(
            point.x * (self.left.width / self.whole.width),
            point.y * (self.left.height / self.whole.height),
        )

    def from_right(self, point: Point) -> Point:
        """A point of the right picture, in the frame of the whole."""
        return Point(
            (self.left.width + point.x * self.right.width) / self.whole.width,
            point.y * (self.right.height / self.whole.height),
        )

    def to_right(self, point: Point) -> Point:
        """A point of the whole, in the frame of the right picture: below 0 in x where it lies on the left one."""
        return Point(
            (point.x * self.whole.width - self.left.width) / self.right.width,
            point.y * (self.whole.height / self.right.height),
        )
