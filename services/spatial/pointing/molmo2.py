"""Molmo 2: `<points coords="1 1 073 160 2 173 600;2 3 500 500">label</points>`, from 0 to 1000.

Each group begins with the number of its image, from 1, and goes on in threes: number of the point, x, y. Only the group
of the image in question counts. Where there is nothing, it writes `There are none.`
"""

import re

from services.spatial.pointing.answer import Asked, Family, Place

_TAG = re.compile(r"<points?+\b([^<>]*+)")
_COORDS = re.compile(r"\bcoords\s*+=\s*+\"([^\"]*+)(\"?+)")
_GROUPS = re.compile(r"[\t:;,]++")
_WHOLE = re.compile(r"[0-9]{1,4}+")


def find(text: str, asked: Asked) -> list[Place]:
    """The points on the image in question, in order."""
    attributes = (_COORDS.search(tag[1]) for tag in _TAG.finditer(text))
    return [
        place
        for coords in attributes
        if coords is not None
        for place in _places(coords[1], asked.image_index, is_complete=bool(coords[2]))
    ]


def _places(coords: str, image_index: int, is_complete: bool) -> list[Place]:
    groups = [group.split() for group in _GROUPS.split(coords)]
    if not is_complete and groups[-1]:
        groups[-1].pop()  # a number may have broken off
    found: list[Place] = []
    for group in groups:
        if not group or not all(_WHOLE.fullmatch(number) for number in group) or int(group[0]) != image_index:
            continue
        found += [(int(x) / 1000, int(y) / 1000) for x, y in zip(group[2::3], group[3::3], strict=False)]
    return found


FAMILY = Family(find, "with a points tag, in {picture} and no other", says_none="there are none")
