"""Lookup-free quantisation: a code is the signs of some numbers (Yu et al., 2023, arXiv 2310.05737, section 3)."""

import torch
from torch import Tensor, nn


class LookupFreeQuantizer(nn.Module):
    """2 ** num_bits codes. Bit k of a code, the first being the most significant, is 1 where number k is above 0.

    The two tables follow from `num_bits`; they are kept because the published weights hold them.

    Args:
        num_bits: of a code.
    """

    embedding: Tensor
    power_vals: Tensor

    def __init__(self, num_bits: int) -> None:
        super().__init__()
        weights = 2 ** torch.arange(num_bits - 1, -1, -1)
        self.register_buffer("embedding", (torch.arange(2**num_bits)[:, None] & weights).bool().float() * 2 - 1)
        self.register_buffer("power_vals", weights)

    def codes(self, numbers: Tensor) -> Tensor:
        """(batch, num_bits, height, width) -> (batch, height * width) int64, row by row."""
        return ((numbers > 0).movedim(1, -1) * self.power_vals).sum(-1).flatten(1)

    def signs(self, codes: Tensor) -> Tensor:
        """Any shape of codes -> (*shape, num_bits) of -1 and 1, in the table's precision."""
        return self.embedding[codes]

    def straight_through(self, numbers: Tensor) -> Tensor:
        """Signs forward, the numbers' own gradient backward; the same shape. For training."""
        signs = torch.where(numbers > 0, 1.0, -1.0).to(numbers)
        return numbers + (signs - numbers).detach()
