"""Which of the tokens just drawn are masked again: the least certain, with some chance (MaskGIT, as Show-o has it).

With a token's probability p and U uniform, its confidence is log max(p, 1e-20) + temperature * G, where
G = -log(-log U) is Gumbel noise; the m lowest are masked.
"""

import torch
from torch import Tensor

TINY = 1e-20


def gumbel(uniform: Tensor) -> Tensor:
    """Gumbel noise of numbers uniform in [0, 1); both logarithms are kept off zero, so it is finite."""
    return -_log(-_log(uniform))


def lowest_confidence(
    probabilities: Tensor, known: Tensor, number: Tensor, temperature: Tensor, uniform: Tensor
) -> Tensor:
    """Where to mask again.

    Args:
        probabilities: (batch, tokens) float32 of the tokens drawn.
        known: (batch, tokens) bool, tokens of earlier steps, which always stay.
        number: (batch,) int64, how many to mask; below the number of tokens.
        temperature: (batch,) float32, at most 1, weight of the chance.
        uniform: (batch, tokens) float32 in [0, 1).

    Returns:
        (batch, tokens) bool, `number` of each row, or fewer where confidences tie at the limit.
    """
    certain = torch.finfo(probabilities.dtype).max
    confidence = _log(probabilities.masked_fill(known, certain)) + temperature[:, None] * gumbel(uniform)
    cut = confidence.sort(dim=1).values.gather(1, number[:, None])
    return confidence < cut


def _log(value: Tensor) -> Tensor:
    return value.clamp(min=TINY).log()
