"""What stands in each 8 x 8 patch of a scene, to tell it to a model directly while it learns something else.

Without that, it would have to find out from words, or from the little that small objects weigh in a picture, that there
are classes and colours. The heads are thrown away after training.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from miniature.glyphs import CLASSES, COLORS
from miniature.world import IMAGE_SIDE, Scene

PATCH_PIXELS = 8
SIDE = IMAGE_SIDE // PATCH_PIXELS


def patch_labels(scene: Scene) -> NDArray[np.int64]:
    """(3, 64): class from 1, colour from 1, and 1 where an object's centre is, of each patch; else 0."""
    found = np.zeros((3, SIDE, SIDE), np.int64)
    for item in scene.objects:
        covered = item.mask.reshape(SIDE, PATCH_PIXELS, SIDE, PATCH_PIXELS).mean((1, 3)) > 0.2
        found[0][covered] = CLASSES.index(item.class_name) + 1
        found[1][covered] = list(COLORS).index(item.color) + 1
        x1, y1, x2, y2 = item.box
        found[2, (y1 + y2) // 2 // PATCH_PIXELS, (x1 + x2) // 2 // PATCH_PIXELS] = 1
    return found.reshape(3, -1)


class PatchHeads(nn.Module):
    """Class, colour and centre of a patch, from features of it.

    Args:
        width: of the features.
        background_weight: of patches without an object, which are most.
    """

    def __init__(self, width: int, background_weight: float = 1.0) -> None:
        super().__init__()
        self.sizes = (len(CLASSES) + 1, len(COLORS) + 1, 2)
        self.linear = nn.Linear(width, sum(self.sizes))
        self._background_weight = background_weight

    def loss(self, features: Tensor, patches: Tensor) -> Tensor:
        """Mean cross-entropy of all three.

        Args:
            features: (batch, 64, width).
            patches: (batch, 3, 64).
        """
        parts = self.linear(features).split(self.sizes, dim=-1)
        return torch.stack(
            [
                F.cross_entropy(part.flatten(0, 1), patches[:, n].flatten(), self._weights(part.shape[-1]))
                for n, part in enumerate(parts)
            ]
        ).mean()

    def _weights(self, size: int) -> Tensor:
        weights = torch.ones(size)
        weights[0] = self._background_weight
        return weights
