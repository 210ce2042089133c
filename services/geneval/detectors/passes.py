"""Which images go through a detector together. Only images of one size: then none pads another."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def same_size_passes(images: Sequence[NDArray[np.uint8]], most: int) -> list[list[int]]:
    """Indices of the images of each forward pass, at most `most` a pass."""
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        by_size[image.shape[:2]].append(index)
    return [group[start : start + most] for group in by_size.values() for start in range(0, len(group), most)]
