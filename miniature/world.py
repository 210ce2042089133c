"""Scenes of the small world: which objects stand where, sampled and rendered with exact ground truth.

A scene is a 64 x 64 picture of one to ten glyphs that do not touch, on a greyish gradient. Everything about it (boxes,
masks, colours, counts) is known exactly. The module does not know prompts or tasks (`miniature.prompts`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miniature.glyphs import COLORS, glyph

IMAGE_SIDE = 64
GAP = 2  # free pixels between the squares of two objects, and MARGIN to the image's border
MARGIN = 1
# (largest number of objects, smallest side, largest side): what fits without crowding
SIDES = ((4, 11, 18), (7, 10, 15), (10, 10, 12))
# Tidy scenes: one side length, and squares that start one pixel after a multiple of TIDY_STEP.
TIDY_SIDE, TIDY_STEP = 14, 8


@dataclass(frozen=True)
class WorldObject:
    """One glyph: its square's left and top pixel, its side in pixels, and the exact RGB it is painted with."""

    class_name: str
    color: str
    left: int
    top: int
    side: int
    rgb: tuple[int, int, int]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Tight box (x1, y1, x2, y2) of the mask in pixels; x2 and y2 lie one past the last pixel."""
        mask = glyph(self.class_name, self.side).mask
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        return (
            self.left + int(columns[0]),
            self.top + int(rows[0]),
            self.left + int(columns[-1]) + 1,
            self.top + int(rows[-1]) + 1,
        )

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(64, 64) bool."""
        full = np.zeros((IMAGE_SIDE, IMAGE_SIDE), dtype=bool)
        full[self.top : self.top + self.side, self.left : self.left + self.side] = glyph(
            self.class_name, self.side
        ).mask
        return full


@dataclass(frozen=True)
class Scene:
    """Objects and the two RGB colours between which the background runs from top to bottom."""

    objects: tuple[WorldObject, ...]
    background: tuple[tuple[int, int, int], tuple[int, int, int]]

    def render(self) -> NDArray[np.uint8]:
        """Draw the scene: (64, 64, 3) uint8 RGB."""
        top, bottom = (np.array(color, dtype=np.float32) for color in self.background)
        ramp = np.linspace(0, 1, IMAGE_SIDE, dtype=np.float32)[:, None, None]
        canvas = np.broadcast_to(top + (bottom - top) * ramp, (IMAGE_SIDE, IMAGE_SIDE, 3)).copy()
        for item in self.objects:
            paint(canvas, item)
        return canvas.round().astype(np.uint8)


def sample_scene(labels: list[tuple[str, str]], rng: np.random.Generator, *, tidy: bool = False) -> Scene:
    """Place one glyph for each (class, colour) at random, none touching another.

    Args:
        labels: 0 to 10 pairs of class name and colour name.
        rng: source of all randomness.
        tidy: all objects of one size, on a lattice: what a small generator learns to draw in minutes.
    """
    squares = _place(len(labels), rng, tidy)
    objects = tuple(
        WorldObject(class_name, color, left, top, side, sample_rgb(color, rng))
        for (class_name, color), (left, top, side) in zip(labels, squares, strict=True)
    )
    return Scene(objects, sample_background(rng))


def sample_rgb(color: str, rng: np.random.Generator) -> tuple[int, int, int]:
    """An RGB value near the middle of a colour name."""
    red, green, blue = np.clip(np.array(COLORS[color]) + rng.integers(-12, 13, 3), 0, 255)
    return int(red), int(green), int(blue)


def sample_background(rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Two greyish colours."""
    first, second = (rng.integers(135, 186) + rng.integers(-8, 9, 3) for _ in range(2))
    return (int(first[0]), int(first[1]), int(first[2])), (int(second[0]), int(second[1]), int(second[2]))


def paint(canvas: NDArray[np.float32], item: WorldObject) -> None:
    """Draw an object on a canvas (height, width, 3) of RGB in [0, 255] that holds its whole square."""
    shape = glyph(item.class_name, item.side)
    rgb = np.array(item.rgb, dtype=np.float32)
    dark = rgb * 0.6 if max(item.rgb) > 60 else rgb + 60  # black gets lighter details
    fill = rgb + (dark - rgb) * shape.shade[..., None]
    window = canvas[item.top : item.top + item.side, item.left : item.left + item.side]
    window += (fill - window) * shape.coverage[..., None]


def _place(number: int, rng: np.random.Generator, tidy: bool) -> list[tuple[int, int, int]]:
    """Squares (left, top, side) by rejection; starts over when a square finds no room."""
    smallest, largest = next((low, high) for most, low, high in SIDES if number <= most)
    step = 1
    if tidy:
        smallest, largest, step = TIDY_SIDE, TIDY_SIDE, TIDY_STEP
    while True:
        squares: list[tuple[int, int, int]] = []
        for _ in range(number):
            square = _free_square(squares, smallest, largest, step, rng)
            if square is None:
                break
            squares.append(square)
        else:
            return squares


def _free_square(
    taken: list[tuple[int, int, int]], smallest: int, largest: int, step: int, rng: np.random.Generator
) -> tuple[int, int, int] | None:
    for _ in range(60):
        side = int(rng.integers(smallest, largest + 1))
        places = (IMAGE_SIDE - side - 2 * MARGIN) // step + 1
        left, top = (MARGIN + step * int(place) for place in rng.integers(0, places, 2))
        if all(
            left >= x + s + GAP or x >= left + side + GAP or top >= y + s + GAP or y >= top + side + GAP
            for x, y, s in taken
        ):
            return left, top, side
    return None
