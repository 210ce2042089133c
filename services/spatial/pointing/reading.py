"""From a model's text to what it says, whatever the family: thinking before the answer, NOT_VISIBLE, and ranges."""

import re

from services.spatial.pointing.answer import Asked, Family, NotVisible, Place, Pointing, Points, Unparsed

# A line that says nothing else, but for "the answer is" or a key of JSON. Each part takes all it can and gives nothing
# back, so that time is linear.
_AROUND = r"""[\s\[\](){}"'`*.,;:!-]*+"""
_LED_BY = r"""(?:(?:the\s++)?+(?:final\s++)?+answer(?:\s++is)?+(?![a-z0-9_])|[a-z0-9_]{1,32}+["']\s*+:)"""
_NOT_VISIBLE = re.compile(rf"{_AROUND}(?:{_LED_BY}{_AROUND})?+not[_ ]visible{_AROUND}", re.IGNORECASE)
_WRAPPERS = re.compile(r"</?answer>|<\|(?:begin|end)_of_box\|>", re.IGNORECASE)


def read_pointing(text: str, family: Family, asked: Asked) -> Pointing:
    """What a text says.

    A point counts even if the text breaks off after it. NOT_VISIBLE counts, in any case, where a line says nothing
    else: a word of it in a sentence is no answer. A text with a place outside of the image says nothing: whoever
    counts to 1000 where 1 is the end means other points than are read.
    """
    _, _, answer = text.rpartition("</think>")
    if "<think>" in answer:
        return Unparsed("its thinking does not come to an end")
    places = family.find(answer, asked)
    says_none = _says_none(answer, family)
    if places and says_none:
        return Unparsed("it points, and says that there is nothing to point at")
    if says_none:
        return NotVisible()
    if not places:
        return Unparsed("it has no point in the form of its family")
    outside = next((place for place in places if not all(0.0 <= share <= 1.0 for share in place)), None)
    if outside is not None:
        shown = ", ".join(f"{share:.4g}" for share in outside)
        return Unparsed(f"({shown}), in shares of width and height, is not within the image")
    return Points(tuple(_middle(place) for place in places))


def _says_none(answer: str, family: Family) -> bool:
    lines = [line for line in _WRAPPERS.sub("\n", answer).split("\n") if line]
    return any(
        _NOT_VISIBLE.fullmatch(line) or (family.says_none and line.strip(" \t\r\"'.!").lower() == family.says_none)
        for line in lines
    )


def _middle(place: Place) -> tuple[float, float]:
    """A point as it is, a box's centre."""
    return (place[0], place[1]) if len(place) == 2 else ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
