"""GLM-4V and GLM-4.5V: a point or a box in brackets of whichever kind, from 0 to 1000.

Where the answer is put between the marks of a box, what stands elsewhere does not count.
"""

from services.spatial.pointing.answer import Asked, Family, Place
from services.spatial.pointing.brackets import bracketed_places, pattern

_BRACKETS = pattern("[(<{", "])>}")
_BEGIN, _END = "<|begin_of_box|>", "<|end_of_box|>"


def find(text: str, asked: Asked) -> list[Place]:
    """Points and boxes, in order."""
    _, _, boxed = text.rpartition(_BEGIN)
    answer, _, _ = boxed.partition(_END)
    return [tuple(number / 1000 for number in numbers) for numbers in bracketed_places(answer, _BRACKETS)]


FAMILY = Family(
    find,
    "[[x, y]]: x from the left and y from the top, from 0 to 1000 across {picture}",
)
