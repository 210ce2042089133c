"""What Show-o is trained on: images of which a random share is masked."""

from dataclasses import dataclass

import torch
from torch import Tensor

from generators.showo.prompting import IGNORED
from generators.showo.schedules import mask_schedule
from generators.showo.vocabulary import Vocabulary


@dataclass(frozen=True)
class MaskedImages:
    """Image tokens to read and to predict.

    Args:
        ids: (batch, tokens) int64, code + image_offset, or the mask's id.
        labels: (batch, tokens) int64, the true id where the mask is, `IGNORED` elsewhere.
    """

    ids: Tensor
    labels: Tensor


def draw_masks(
    batch: int,
    num_tokens: int,
    schedule: str = "cosine",
    generator: torch.Generator | None = None,
    *,
    evenly: bool = False,
) -> Tensor:
    """Random places to mask; the two images of a pair may share a row.

    With u uniform in [0, 1), round(num_tokens * schedule(u)) tokens are masked, at least one; under the cosine that is
    2 / pi of them on average.

    Args:
        evenly: row k's u lies in the k-th of `batch` equal parts, so that the rows cover all shares of masked tokens.

    Returns:
        (batch, num_tokens) bool, on the generator's device.
    """
    device = "cpu" if generator is None else generator.device
    progress = torch.rand(batch, generator=generator, device=device)
    if evenly:
        progress = (torch.arange(batch, device=device) + progress) / batch
    share = mask_schedule(schedule)(progress).clamp(min=0)
    number = (num_tokens * share).round().clamp(min=1)
    rank = torch.rand(batch, num_tokens, generator=generator, device=device).argsort(1).argsort(1)
    return rank < number[:, None]


def mask_images(codes: Tensor, masked: Tensor, vocabulary: Vocabulary) -> MaskedImages:
    """Hide the codes (batch, tokens) of images where `masked` (batch, tokens) is true."""
    ids = codes + vocabulary.image_offset
    return MaskedImages(ids.masked_fill(masked, vocabulary.mask), ids.masked_fill(~masked, IGNORED))
