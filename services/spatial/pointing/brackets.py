"""Places as numbers in brackets: two are a point, four are a box."""

import re
from collections.abc import Iterator

from services.spatial.pointing.numbers import NUMBER, numbers_in


def pattern(opening: str, closing: str) -> re.Pattern[str]:
    """Of two to four numbers between any of these brackets."""
    inside = rf"{NUMBER}(?:\s*+,\s*+{NUMBER}){{1,3}}+"
    return re.compile(rf"[{re.escape(opening)}]\s*+({inside})\s*+[{re.escape(closing)}]")


def bracketed_places(text: str, brackets: re.Pattern[str]) -> Iterator[tuple[float, ...]]:
    """The numbers of each place, in order; of three there is none."""
    for match in brackets.finditer(text):
        numbers = numbers_in(match[1])
        if len(numbers) != 3:
            yield numbers
