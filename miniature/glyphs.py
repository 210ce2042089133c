"""How the objects of the small world look: six COCO classes as glyphs, in GenEval's ten colours.

A glyph is drawn once for each (class, side) at eight times its size and averaged down, so that edges are smooth and
the mask (coverage of at least one half) is exact. Glyphs touch all four sides of their square up to one pixel.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CLASSES = ("apple", "donut", "kite", "cup", "umbrella", "pizza")

# GenEval's ten colour names with the RGB value in the middle of each.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (250, 140, 25),
    "yellow": (245, 225, 50),
    "green": (45, 160, 70),
    "blue": (45, 90, 220),
    "purple": (135, 55, 185),
    "pink": (250, 155, 205),
    "brown": (125, 75, 35),
    "black": (25, 25, 25),
    "white": (250, 250, 250),
}

OVERSAMPLING = 8


@dataclass(frozen=True)
class Glyph:
    """A drawn glyph of one side length.

    Args:
        coverage: (side, side) float32 in [0, 1], the share of each pixel that the glyph covers.
        shade: (side, side) float32 in [0, 1], the share of each pixel taken by darker details (stem, rim, crust).
    """

    coverage: NDArray[np.float32]
    shade: NDArray[np.float32]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(side, side) bool: pixels covered by at least one half."""
        return self.coverage >= 0.5


@cache
def glyph(class_name: str, side: int) -> Glyph:
    """Draw `class_name` in a square of `side` pixels."""
    body, details = (Image.new("L", (side * OVERSAMPLING,) * 2) for _ in range(2))
    _DRAWINGS[class_name](_Pen(body), _Pen(details))
    covered, shaded = (_average_down(layer, side) for layer in (body, details))
    return Glyph(coverage=covered, shade=np.minimum(shaded, covered))


class _Pen:
    """Draws in the unit square, y down."""

    def __init__(self, layer: Image.Image) -> None:
        self._draw = ImageDraw.Draw(layer)
        self._scale = layer.width - 1

    def polygon(self, *points: tuple[float, float], fill: int = 255) -> None:
        self._draw.polygon([(x * self._scale, y * self._scale) for x, y in points], fill=fill)

    def ellipse(self, x1: float, y1: float, x2: float, y2: float, fill: int = 255) -> None:
        self._draw.ellipse([v * self._scale for v in (x1, y1, x2, y2)], fill=fill)

    def box(self, x1: float, y1: float, x2: float, y2: float, fill: int = 255) -> None:
        self._draw.rectangle([v * self._scale for v in (x1, y1, x2, y2)], fill=fill)

    def half_disc(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self._draw.pieslice([v * self._scale for v in (x1, y1, x2, y2)], 180, 360, fill=255)


def _apple(body: _Pen, details: _Pen) -> None:
    body.ellipse(0.0, 0.22, 0.64, 1.0)
    body.ellipse(0.36, 0.22, 1.0, 1.0)
    body.box(0.42, 0.0, 0.58, 0.4)
    details.box(0.42, 0.0, 0.58, 0.34)


def _donut(body: _Pen, details: _Pen) -> None:
    body.ellipse(0, 0, 1, 1)
    body.ellipse(0.32, 0.32, 0.68, 0.68, fill=0)


def _kite(body: _Pen, details: _Pen) -> None:
    body.polygon((0.5, 0), (1, 0.4), (0.5, 1), (0, 0.4))
    details.box(0.46, 0, 0.54, 1)
    details.box(0, 0.37, 1, 0.44)


def _cup(body: _Pen, details: _Pen) -> None:
    body.ellipse(0.42, 0.2, 1.0, 0.78)
    body.ellipse(0.58, 0.36, 0.84, 0.62, fill=0)
    body.polygon((0, 0), (0.74, 0), (0.66, 1), (0.08, 1))
    details.box(0, 0, 0.74, 0.16)


def _umbrella(body: _Pen, details: _Pen) -> None:
    body.half_disc(0, 0, 1, 1.1)
    body.box(0.43, 0.5, 0.57, 1)
    body.box(0.2, 0.86, 0.57, 1)
    details.box(0.43, 0.55, 0.57, 1)
    details.box(0.2, 0.86, 0.57, 1)


def _pizza(body: _Pen, details: _Pen) -> None:
    body.polygon((0, 0), (1, 0), (1, 0.12), (0.5, 1), (0, 0.12))
    details.box(0, 0, 1, 0.14)
    for x, y in ((0.34, 0.32), (0.64, 0.34), (0.5, 0.6)):
        details.ellipse(x - 0.08, y - 0.08, x + 0.08, y + 0.08)


_DRAWINGS = {"apple": _apple, "donut": _donut, "kite": _kite, "cup": _cup, "umbrella": _umbrella, "pizza": _pizza}


def _average_down(layer: Image.Image, side: int) -> NDArray[np.float32]:
    return np.asarray(layer.resize((side, side), Image.Resampling.BOX), dtype=np.float32) / np.float32(255)
