"""InternVL and models made from it: a point or a box in square brackets, `[[x, y, x, y]]`, from 0 to 1000."""

from services.spatial.pointing.answer import Asked, Family, Place
from services.spatial.pointing.brackets import bracketed_places, pattern

_BRACKETS = pattern("[", "]")


def find(text: str, asked: Asked) -> list[Place]:
    """Points and boxes, in order."""
    return [tuple(number / 1000 for number in numbers) for numbers in bracketed_places(text, _BRACKETS)]


FAMILY = Family(
    find,
    "[[x, y]]: x from the left and y from the top, from 0 to 1000 across {picture}",
)
