"""Gemini: JSON with `point` or `box_2d`, from 0 to 1000, and y before x."""

from services.spatial.pointing.answer import Asked, Family, Place
from services.spatial.pointing.keyed import keyed_places, pattern

_KEYS = pattern("point", "box_2d")


def find(text: str, asked: Asked) -> list[Place]:
    """Points and boxes, in order."""
    return [_x_first([number / 1000 for number in numbers]) for numbers in keyed_places(text, _KEYS)]


def _x_first(shares: list[float]) -> Place:
    """(y, x, ...) as (x, y, ...)."""
    return tuple(share for y, x in zip(shares[::2], shares[1::2], strict=True) for share in (x, y))


FAMILY = Family(
    find,
    'in JSON, [{"point": [y, x]}]: y from the top and x from the left, from 0 to 1000 across {picture}',
)
