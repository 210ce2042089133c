"""Places as JSON names them: `"key": [number, ...]`.

They are looked for in the text and not in the JSON that it may be: of a list that breaks off the first places are as
good as of a whole one, and there is no nesting to get lost in.
"""

import re
from collections.abc import Iterator

from services.spatial.pointing.numbers import listed, numbers_in


def pattern(point_key: str, box_key: str) -> re.Pattern[str]:
    """Of a point with two numbers or a box with four, by their keys."""
    named = "|".join(
        rf"{key}[\"']\s*+:\s*+\[\s*+(?P<{key}>{listed(count)})\s*+\]" for key, count in ((point_key, 2), (box_key, 4))
    )
    return re.compile(rf"[\"'](?:{named})")


def keyed_places(text: str, keys: re.Pattern[str]) -> Iterator[tuple[float, ...]]:
    """The numbers of each place, in order."""
    for match in keys.finditer(text):
        yield numbers_in(next(group for group in match.groups() if group is not None))
