"""What the mask of a query says: where the target is, whether a point lies on it, and which point stands for it. Pure.

Places are shares (x, y) of width and height. A share belongs to the pixel min(int(x * width), width - 1): pixels are
half open, and the far border belongs to the last one.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Truth:
    """A target, or that there is none.

    Args:
        mask: (height, width), true on the target.
    """

    mask: NDArray[np.bool_]

    @classmethod
    def of_image(cls, image: NDArray[np.uint8]) -> "Truth":
        """From a mask as an image, (height, width, 3): whatever is not black."""
        return cls(np.asarray(image.any(axis=2)))

    @property
    def width(self) -> int:
        return int(self.mask.shape[1])

    @property
    def height(self) -> int:
        return int(self.mask.shape[0])

    @cached_property
    def is_visible(self) -> bool:
        return bool(self.mask.any())

    def is_hit(self, x: float, y: float) -> bool:
        """Whether a place in [0, 1] lies on the target."""
        return bool(self.mask[min(int(y * self.height), self.height - 1), min(int(x * self.width), self.width - 1)])

    @cached_property
    def point(self) -> tuple[float, float] | None:
        """What distances are measured to: the centre of the target's box if that lies on the target, else the middle of
        the target's pixel that is nearest to it (of several, the one highest up, then farthest left)."""
        if not self.is_visible:
            return None
        rows, columns = np.nonzero(self.mask)
        x, y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
        if not self.mask[int(y), int(x)]:
            nearest = int(np.argmin((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2))
            x, y = columns[nearest] + 0.5, rows[nearest] + 0.5
        return float(x / self.width), float(y / self.height)
