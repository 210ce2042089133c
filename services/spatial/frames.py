"""In which picture a place is meant: the query itself, or one that has the reference in its left half and the query in
its right one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """The frame of an answer.

    Args:
        side_by_side: whether it is that of both pictures in one.
    """

    side_by_side: bool

    @property
    def asked_picture(self) -> str:
        """What to call the picture of the frame in a question."""
        return "the whole picture" if self.side_by_side else "the second picture"

    def to_query(self, x: float, y: float) -> tuple[float, float]:
        """A place in the frame as shares of the query; x is below 0 where it lies on the reference."""
        return ((x - 0.5) * 2 if self.side_by_side else x, y)
