"""Florence-2's marks: boxes as `<loc_n>`, x y x y, n from 0 to 999. It has no task to point: a box's centre is taken.

Its own class cannot be asked here, for it holds no conversation: this is for others that learnt its marks.
"""

import re

from services.spatial.pointing.answer import Asked, Family, Place

_BINS = 1000
_RUN = re.compile(r"(?:<loc_[0-9]{1,6}+>)++")
_MARK = re.compile(r"[0-9]++")


def find(text: str, asked: Asked) -> list[Place]:
    """Boxes, in order: marks that follow each other, in fours; each mark is the middle of its bin."""
    found: list[Place] = []
    for run in _RUN.finditer(text):
        shares = [(int(number) + 0.5) / _BINS for number in _MARK.findall(run[0])]
        found += [tuple(shares[start : start + 4]) for start in range(0, len(shares) - 3, 4)]
    return found


FAMILY = Family(find, "with the marks of a box around it in {picture}")
