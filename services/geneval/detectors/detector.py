"""What the GenEval service asks of an object detector, whatever library runs it. Knows nothing of tasks or rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class DetectedObject:
    """One object found in an image.

    Args:
        label: GenEval's name of its class.
        confidence: in [0, 1].
        box: (x1, y1, x2, y2) in pixels of the image as given; x2 and y2 are exclusive: a single pixel is 1 wide.
        mask: (height, width) of the image, true on the object; None from detectors of boxes alone.
    """

    label: str
    confidence: float
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_] | None = None


class Detector(Protocol):
    """An object detector. Its answer for an image does not depend on the other images of the call."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """GenEval's names of the classes that can be found."""

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        """What decides the answers, by name: digests of files, settings."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[DetectedObject]]:
        """The objects of each image, the surest first.

        Args:
            images: each (height, width, 3) uint8 RGB; sizes may differ.
        """
