"""Numbers in text: decimal, in ASCII, with a sign and an exponent or without; of no more digits than a number needs.

Signs are read so that a negative number is seen to be outside of the image. What is longer is no number, so that
nothing takes longer than it is worth; `nan` and `inf` are words.
"""

import re

#: Of one number, without a group. Bounded, and so in constant time.
NUMBER = r"[-+]?+(?:[0-9]{1,64}+(?:\.[0-9]{0,64}+)?+|\.[0-9]{1,64}+)(?:[eE][-+]?+[0-9]{1,9}+)?+"
_EACH = re.compile(NUMBER)


def listed(count: int) -> str:
    """A pattern of so many numbers with commas between."""
    return r"\s*+,\s*+".join([NUMBER] * count)


def numbers_in(text: str) -> tuple[float, ...]:
    """The numbers of a text that is known to hold numbers, commas and spaces alone; infinite where they are huge."""
    return tuple(float(one) for one in _EACH.findall(text))
