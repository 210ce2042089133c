"""Who sees whom in a text-to-image sequence: text is causal, the image sees the text and all of itself.

With the image segment from soi to eoi, position i attends to position j if

    i lies in the image:      j is no PAD
    i is text:                j <= i and j is no PAD
    i is PAD:                 j <= i and j is a PAD (no other row sees it; it keeps the softmax finite)

Text never sees the image: whatever is drawn, the states of the text stay the same.
"""

import torch
from torch import Tensor

from generators.showo.vocabulary import Vocabulary

#: What the published code adds where attention is not allowed, in float32: the smallest 64-bit integer.
BLOCKED = float(torch.iinfo(torch.int64).min)


def text_to_image_mask(ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Where attention is allowed.

    Args:
        ids: (batch, length) of sequences that are padded on the left; without an image, too.

    Returns:
        (batch, 1, length, length) bool; rows attend to columns.
    """
    positions = torch.arange(ids.shape[1], device=ids.device)
    causal = positions[:, None] >= positions
    pad = ids == vocabulary.pad
    image = (ids == vocabulary.soi).cumsum(1) > (ids == vocabulary.eoi).cumsum(1)
    image |= ids == vocabulary.eoi
    same_kind = pad[:, :, None] == pad[:, None, :]
    allowed = torch.where(image[:, :, None], ~pad[:, None, :], causal & same_kind)
    return allowed[:, None]


def additive(allowed: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same as numbers to add to attention's logits: 0 where it is allowed, `BLOCKED` elsewhere.

    In float16 `BLOCKED` overflows to minus infinity, which blocks just as well.
    """
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, BLOCKED).to(dtype)
