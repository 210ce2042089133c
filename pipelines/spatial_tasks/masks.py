"""Which pixels are the target: masks from files, and the rule that makes one point of a mask."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.spatial_tasks.points import Point, Size

Mask = NDArray[np.bool_]
#: What Pillow raises on files that are missing, truncated or no pictures.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_mask(path: Path) -> Mask:
    """(height, width) bool: true where the picture is not black.

    Raises:
        One of `UNREADABLE`.
    """
    with Image.open(path) as image:
        image.load()
        sixteen_bit = image.mode.startswith("I") or image.mode == "F"
        return np.asarray(image if sixteen_bit else image.convert("L")) > 0


def read_picture(path: Path) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 RGB.

    Raises:
        One of `UNREADABLE`.
    """
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def size_of(pixels: NDArray[np.generic]) -> Size:
    """Of a picture or a mask, (height, width, ...)."""
    return Size(width=pixels.shape[1], height=pixels.shape[0])


def centre_of_box(mask: Mask) -> tuple[float, float] | None:
    """(x, y) in pixels of the middle of the tight box, where that is a pixel of the mask; else None.

    Halves are rounded to the even neighbour to see which pixel the middle is; the middle itself is not rounded.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    x, y = 0.5 * (int(columns.min()) + int(columns.max())), 0.5 * (int(rows.min()) + int(rows.max()))
    return (x, y) if mask[round(y), round(x)] else None


def target_point(mask: Mask, draw: Callable[[int], int]) -> Point | None:
    """The point to be answered: the middle of the mask's box if it lies in the mask, else one of its pixels at random.

    Args:
        mask: (height, width).
        draw: gives a number from 0 to below its argument; asked only if it is needed. Pixels count row by row.

    Returns:
        The middle of that pixel; None of an empty mask.
    """
    if not mask.any():
        return None
    pixel: tuple[float, float] | None = centre_of_box(mask)
    if pixel is None:
        rows, columns = np.nonzero(mask)
        index = draw(len(rows))
        pixel = int(columns[index]), int(rows[index])
    return point_of_pixel(pixel, size_of(mask))


def point_of_pixel(pixel: tuple[float, float], size: Size) -> Point:
    """The middle of a pixel (x, y) as shares of width and height."""
    return Point((pixel[0] + 0.5) / size.width, (pixel[1] + 0.5) / size.height)
