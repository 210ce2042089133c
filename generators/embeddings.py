"""Encoded prompts, as sampling and training hand them around. Knows no model."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PromptEmbeddings:
    """Encoded prompts: `tokens` (batch, sequence, width) and `pooled` (batch, pooled width)."""

    tokens: Tensor
    pooled: Tensor

    def repeat(self, number: int) -> "PromptEmbeddings":
        """The one prompt of this batch, `number` times."""
        return PromptEmbeddings(self.tokens.expand(number, -1, -1), self.pooled.expand(number, -1))

    def to(self, device: torch.device | str) -> "PromptEmbeddings":
        return PromptEmbeddings(self.tokens.to(device), self.pooled.to(device))

    @staticmethod
    def concatenate(parts: list["PromptEmbeddings"]) -> "PromptEmbeddings":
        return PromptEmbeddings(torch.cat([p.tokens for p in parts]), torch.cat([p.pooled for p in parts]))
