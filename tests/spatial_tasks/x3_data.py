"""A few objects in the data's layout, by hand: small, with every oddity that the builder has to tell of."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 20, 12
Box = tuple[int, int, int, int]


def box_mask(box: Box | None, *, ring: bool = False, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.bool_]:
    """True in a box (x1, y1, x2, y2), x2 and y2 excluded; of a ring, its one pixel of border alone."""
    mask = np.zeros((height, width), bool)
    if box is not None:
        x1, y1, x2, y2 = box
        mask[y1:y2, x1:x2] = True
        if ring:
            mask[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] = False
    return mask


def write_view(folder: Path, number: int, mask: NDArray[np.bool_], frame: str | None = None) -> str:
    """All four files of a view; returns what their names begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = frame or f"{number:04d}00"
    stem = f"{number:02d}_{frame}"
    picture = np.full((*mask.shape, 3), 40 * number, np.uint8)
    picture[:, :, 1] = np.arange(mask.shape[1])
    changed = picture.copy()
    changed[mask] = 0
    for ending, pixels in {
        "original": picture,
        "inpainted": changed,
        "mask": mask.astype(np.uint8) * 255,
        "mask_dialated": mask.astype(np.uint8) * 255,
    }.items():
        Image.fromarray(pixels).save(folder / f"{stem}_{ending}.png")
    return stem


def write_object(folder: Path, masks: list[NDArray[np.bool_]]) -> Path:
    """Views 1, 2, ... of an object."""
    for number, mask in enumerate(masks, start=1):
        write_view(folder, number, mask)
    return folder
