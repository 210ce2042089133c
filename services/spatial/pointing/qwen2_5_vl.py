"""Qwen2.5-VL: JSON with `point_2d` or `bbox_2d`, in pixels of what its processor makes of the image.

That size cannot be told from an answer, nor from the image alone: it must come from the processor.
"""

from services.spatial.pointing.answer import Asked, Family, Place
from services.spatial.pointing.keyed import keyed_places
from services.spatial.pointing.qwen3_vl import KEYS


def find(text: str, asked: Asked) -> list[Place]:
    """Points and boxes, in order; none if the size is not known."""
    if asked.input_size is None:
        return []
    sides = asked.input_size * 2
    return [
        tuple(number / side for number, side in zip(numbers, sides, strict=False))
        for numbers in keyed_places(text, KEYS)
    ]


FAMILY = Family(
    find,
    'in JSON, [{"point_2d": [x, y]}]: x from the left and y from the top, in pixels of {picture}',
    needs_input_size=True,
)
