"""How many objects the miniature detector finds in pictures: what recipes measure their quality with."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessorPil

from miniature.glyphs import CLASSES
from miniature.recipes.detector import found_counts, preprocess

DETECTOR = Path(__file__).parents[1] / "weights" / "detector"
THRESHOLD = 0.75  # calibrated, see MODEL_CARD.md
BATCH = 32


def count_objects(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Objects found of each class: (pictures, classes), for (64, 64, 3) uint8 RGB."""
    model, processor = _detector()
    parts = [
        found_counts(model, preprocess(np.stack(pictures[start : start + BATCH]), processor), [THRESHOLD])[THRESHOLD]
        for start in range(0, len(pictures), BATCH)
    ]
    return np.concatenate(parts)


def exactly_counted(pictures: Sequence[NDArray[np.uint8]], tasks: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
    """Whether each picture shows exactly as many objects as its counting task wants, whatever else it shows."""
    found = count_objects(pictures)
    wanted = [(CLASSES.index(task["include"][0]["class"]), task["include"][0]["count"]) for task in tasks]
    return np.array([row[index] == count for row, (index, count) in zip(found, wanted, strict=True)])


@cache
def _detector() -> tuple[Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessorPil]:
    model = Mask2FormerForUniversalSegmentation.from_pretrained(DETECTOR, dtype="float32").eval()
    return model, Mask2FormerImageProcessorPil.from_pretrained(DETECTOR)
