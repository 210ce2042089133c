"""Instructions in a model's text. Any text is read, none raises, in time that grows with its length.

What stands after the last `</think>` counts. The first JSON list of strings in it is taken, also inside a code fence or
a sentence; else the lines that are numbered or bulleted.
"""

import json
import re

_LINE = re.compile(r"^[ \t]{0,8}(?:\d{1,2}[.)]|[-*])[ \t]+(\S.*)$", re.MULTILINE)
#: A list that begins later than at so many brackets is not looked for.
_MOST_BRACKETS = 32


def read_instructions(text: str, most: int) -> list[str] | None:
    """The instructions, in order; None if the text holds no list.

    Args:
        text: what the model wrote.
        most: those after the first so many are left out.
    """
    said = text.rpartition("</think>")[2]
    found = _json_list(said)
    if found is None:
        found = _LINE.findall(said) or None
    if found is None:
        return None
    return [one.strip() for one in found if one.strip()][:most]


def _json_list(text: str) -> list[str] | None:
    decoder, start = json.JSONDecoder(), -1
    for _ in range(_MOST_BRACKETS):
        start = text.find("[", start + 1)
        if start < 0:
            return None
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return value
    return None
