"""Which images go through a detector together. Only images of one size: then none pads another."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from services.geneval.detectors.detector import DetectedObject


def detect_in_passes(
    images: Sequence[NDArray[np.uint8]],
    most: int,
    detect: Callable[[list[NDArray[np.uint8]]], list[list[DetectedObject]]],
) -> list[list[DetectedObject]]:
    """The objects of each image, in order.

    Args:
        images: each (height, width, 3); sizes may differ.
        most: images a pass.
        detect: the objects of images of one size.
    """
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        by_size[image.shape[:2]].append(index)
    found: list[list[DetectedObject]] = [[] for _ in images]
    for group in by_size.values():
        for start in range(0, len(group), most):
            indices = group[start : start + most]
            for index, objects in zip(indices, detect([images[i] for i in indices]), strict=True):
                found[index] = objects
    return found
