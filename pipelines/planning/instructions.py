"""Instructions in a model's text. Any text is read, none raises, in time that grows with its length.

What stands after the last `</think>` counts, and nothing of thinking that does not end. The first JSON list of strings
in it is taken that is not empty, also inside a code fence or a sentence; else the lines that are numbered or bulleted;
else an empty list, if there is one.
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
    if "<think>" in said:
        return None
    found = _json_list(said)
    if not found:
        found = _LINE.findall(said) or found
    if found is None:
        return None
    return [one.strip() for one in found if one.strip()][:most]


def _json_list(text: str) -> list[str] | None:
    """The first that is not empty, else an empty one, else None."""
    decoder, start, found = json.JSONDecoder(), -1, None
    for _ in range(_MOST_BRACKETS):
        start = text.find("[", start + 1)
        if start < 0:
            break
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            if value:
                return value
            found = value
    return found
