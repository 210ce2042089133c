"""Qwen3-VL and Qwen3.5: JSON with `point_2d` or `bbox_2d`, from 0 to 1000 whatever the size of the image."""

from services.spatial.pointing.answer import Asked, Family, Place
from services.spatial.pointing.keyed import keyed_places, pattern

KEYS = pattern("point_2d", "bbox_2d")


def find(text: str, asked: Asked) -> list[Place]:
    """Points and boxes, in order."""
    return [tuple(number / 1000 for number in numbers) for numbers in keyed_places(text, KEYS)]


FAMILY = Family(
    find,
    'in JSON, [{"point_2d": [x, y]}]: x from the left and y from the top, from 0 to 1000 across {picture}',
)
