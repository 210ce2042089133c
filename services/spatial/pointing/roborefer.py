"""RoboRefer, RoboPoint, and models that are told to: `[(x, y), ...]`, shares from 0 to 1.

Where there is a list, the first one counts, and not what else stands in brackets. Square brackets for round ones are
forgiven.
"""

import re

from services.spatial.pointing.answer import Asked, Family, Place
from services.spatial.pointing.numbers import listed, numbers_in

_PAIR = rf"(?:\(\s*+{listed(2)}\s*+,?+\s*+\)|\[\s*+{listed(2)}\s*+\])"
_PAIRS = re.compile(_PAIR)
_LIST = re.compile(rf"\[\s*+({_PAIR}(?:\s*+,\s*+{_PAIR})*+)")


def find(text: str, asked: Asked) -> list[Place]:
    """The pairs of the first list; where there is none, all pairs."""
    first = _LIST.search(text)
    return [numbers_in(match[0]) for match in _PAIRS.finditer(first[1] if first else text)]


FAMILY = Family(
    find,
    "[(x, y)]: x from the left and y from the top, as shares of the width and the height of {picture}, from 0 to 1",
)
