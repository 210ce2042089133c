"""What a text that should point turns out to say, and what one must know to read it."""

from collections.abc import Callable
from dataclasses import dataclass

#: (x, y), or the corners of a box (x, y, x, y), as shares of width and height; not yet checked to be within 0 and 1.
Place = tuple[float, ...]


@dataclass(frozen=True)
class Points:
    """Points (x, y) from the left and from the top, as shares of width and height, in [0, 1]; in the text's order."""

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class NotVisible:
    """It says that there is nothing to point at."""


@dataclass(frozen=True)
class Unparsed:
    """It says neither, or both.

    Args:
        problem: why, for people.
    """

    problem: str


Pointing = Points | NotVisible | Unparsed


@dataclass(frozen=True)
class Asked:
    """What the model was shown.

    Args:
        image_index: number of the image in question among those shown, from 1.
        input_size: (width, height) in pixels to which the model's processor scaled it; None if that is not known.
    """

    image_index: int = 1
    input_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Family:
    """A family of models that point alike.

    Args:
        find: the places in a text, in order; only those that are complete.
        form: how to ask for a point, in words; `{picture}` is what it is a point of.
        says_none: what the family says in place of NOT_VISIBLE, in small letters, or nothing of its own.
        needs_input_size: whether its coordinates are pixels of what its processor makes of an image.
    """

    find: Callable[[str, Asked], list[Place]]
    form: str
    says_none: str = ""
    needs_input_size: bool = False
