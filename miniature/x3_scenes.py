"""A wider small world seen through a camera: what the x3 tasks are made of (one object, five views, each with and
without it).

A wide scene is a square of 128 pixels of glyphs that do not touch, on the world's gradient. A camera looks at a part of
it, nearer or from further away, and gives a picture of 64 x 64 pixels in which objects may be cut off by the border or
missing. Everything about a view (which pixels are an object's, what is behind it) is known exactly. No object is red,
for the mark that tasks put on an object is. Some scenes hold two objects of one class and colour: there, the mark alone
does not say by its looks which one is meant.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from miniature.glyphs import CLASSES, COLORS, glyph
from miniature.world import IMAGE_SIDE, WorldObject, paint, sample_background, sample_rgb

WORLD_SIDE = 128
NUMBER_OF_OBJECTS = (8, 12)
SIDES = (11, 18)
GAP = 5  # free world pixels between two squares: at the smallest zoom they still do not touch
ZOOMS = (0.8, 1.25)  # pixels of a view for one of the world
BEYOND = 24  # world pixels that a camera may look over the edge
TWIN_SHARE = 0.3  # of scenes with two objects that look the same
VISIBLE_PIXELS = 12  # an object of which fewer are left counts as neither visible nor missing: such views are not taken
DILATION_PIXELS = 2
PAD = 32  # of a canvas around a view, so that what the border cuts off can be drawn; no square is larger


@dataclass(frozen=True)
class Camera:
    """Where a view's left top corner lies in the world, and how many of its pixels a world pixel becomes."""

    left: float
    top: float
    zoom: float

    def see(self, item: WorldObject) -> WorldObject:
        """The object in pixels of the view; it may lie outside, wholly or in part."""
        return replace(
            item,
            left=round((item.left - self.left) * self.zoom),
            top=round((item.top - self.top) * self.zoom),
            side=round(item.side * self.zoom),
        )


@dataclass(frozen=True)
class WideScene:
    """Objects in world pixels, and the two RGB colours between which the background runs from top to bottom."""

    objects: tuple[WorldObject, ...]
    background: tuple[tuple[int, int, int], tuple[int, int, int]]

    def without(self, item: WorldObject) -> "WideScene":
        return replace(self, objects=tuple(one for one in self.objects if one is not item))

    def is_unique(self, item: WorldObject) -> bool:
        """Whether class and colour alone say which object is meant."""
        return sum((one.class_name, one.color) == (item.class_name, item.color) for one in self.objects) == 1

    def render(self, camera: Camera) -> NDArray[np.uint8]:
        """Draw what the camera sees: (64, 64, 3) uint8 RGB."""
        top, bottom = (np.array(color, dtype=np.float32) for color in self.background)
        rows = camera.top + (np.arange(-PAD, IMAGE_SIDE + PAD, dtype=np.float32) + 0.5) / camera.zoom
        ramp = np.clip(rows / WORLD_SIDE, 0, 1)[:, None, None]
        whole = IMAGE_SIDE + 2 * PAD
        canvas = np.broadcast_to(top + (bottom - top) * ramp, (whole, whole, 3)).astype(np.float32)
        for item in self.objects:
            seen = camera.see(item)
            if is_in_view(seen):
                paint(canvas, replace(seen, left=seen.left + PAD, top=seen.top + PAD))
        return canvas[PAD:-PAD, PAD:-PAD].round().astype(np.uint8)


def is_in_view(seen: WorldObject) -> bool:
    """Whether any part of the object's square is within the view's border."""
    return all(-seen.side < edge < IMAGE_SIDE for edge in (seen.left, seen.top))


def mask_in_view(seen: WorldObject) -> NDArray[np.bool_]:
    """(64, 64) bool: the object's pixels, as far as the border leaves them."""
    full = np.zeros((IMAGE_SIDE + 2 * PAD,) * 2, dtype=bool)
    if is_in_view(seen):
        top, left = seen.top + PAD, seen.left + PAD
        full[top : top + seen.side, left : left + seen.side] = glyph(seen.class_name, seen.side).mask
    return full[PAD:-PAD, PAD:-PAD]


def dilate(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask grown by `DILATION_PIXELS` on all sides, corners too."""
    grown = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * DILATION_PIXELS + 1))
    return np.asarray(grown) > 0


def sample_wide_scene(rng: np.random.Generator) -> WideScene:
    """Draw a scene; class and colour pairs are distinct but for one, in `TWIN_SHARE` of the scenes."""
    number = int(rng.integers(NUMBER_OF_OBJECTS[0], NUMBER_OF_OBJECTS[1] + 1))
    pairs = [(name, color) for name in CLASSES for color in COLORS if color != "red"]
    labels = [pairs[int(index)] for index in rng.choice(len(pairs), number, replace=False)]
    if rng.random() < TWIN_SHARE:
        labels[1] = labels[0]
    squares = _place(number, rng)
    objects = tuple(
        WorldObject(name, color, left, top, side, sample_rgb(color, rng))
        for (name, color), (left, top, side) in zip(labels, squares, strict=True)
    )
    return WideScene(objects, sample_background(rng))


def sample_camera(item: WorldObject, rng: np.random.Generator, *, sees: bool, wholly: bool = False) -> Camera:
    """Draw a camera that sees the object or does not.

    Args:
        item: the object, in world pixels.
        rng: source of all randomness.
        sees: at least `VISIBLE_PIXELS` of it are in view; otherwise nothing of its square is.
        wholly: the border cuts nothing off.
    """
    while True:
        zoom = float(rng.uniform(*ZOOMS))
        most = WORLD_SIDE + BEYOND - IMAGE_SIDE / zoom
        camera = Camera(float(rng.uniform(-BEYOND, most)), float(rng.uniform(-BEYOND, most)), zoom)
        seen = camera.see(item)
        pixels = int(mask_in_view(seen).sum())
        is_whole = pixels == glyph(seen.class_name, seen.side).mask.sum()
        if sees and pixels >= VISIBLE_PIXELS and (is_whole or not wholly):
            return camera
        if not sees and not is_in_view(seen):
            return camera


def _place(number: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Squares (left, top, side) by rejection; starts over when one finds no room."""
    while True:
        squares: list[tuple[int, int, int]] = []
        for _ in range(60 * number):
            side = int(rng.integers(SIDES[0], SIDES[1] + 1))
            left, top = (int(edge) for edge in rng.integers(0, WORLD_SIDE - side + 1, 2))
            if all(
                left >= x + s + GAP or x >= left + side + GAP or top >= y + s + GAP or y >= top + side + GAP
                for x, y, s in squares
            ):
                squares.append((left, top, side))
            if len(squares) == number:
                return squares
