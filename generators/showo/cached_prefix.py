"""Prompts that are read once: their keys and values serve every step and every candidate.

It is exact, not an approximation: text never attends to the image, so its states do not depend on what is drawn.
"""

from typing import Self

import torch
from torch import Tensor

from generators.showo.attention_mask import text_to_image_mask
from generators.showo.transformer import Showo, read_prefix


class CachedPrefix:
    """The states of some prompts, a row each.

    Args:
        showo: reads them, once.
        prefixes: (prompts, length) ids of all that stands before soi, on the model's device.
    """

    def __init__(self, showo: Showo, prefixes: Tensor) -> None:
        self._showo = showo
        self._cache = read_prefix(showo, prefixes, text_to_image_mask(prefixes, showo.vocabulary))
        self._visible = prefixes != showo.vocabulary.pad

    @classmethod
    def of_candidates(cls, showo: Showo, prompts: Tensor, unconditional: Tensor | None) -> Self:
        """A row for each prompt, and then as many of the unconditional one where it is given; equal ones are read once.

        Args:
            prompts: (candidates, length) ids.
            unconditional: (1, length) ids.
        """
        distinct, rows = prompts.to(showo.device).unique(dim=0, return_inverse=True)
        if unconditional is not None:
            rows = torch.cat([rows, torch.full_like(rows, len(distinct))])
            distinct = torch.cat([distinct, unconditional.to(distinct)])
        prefix = cls(showo, distinct)
        prefix.select(rows)
        return prefix

    def select(self, rows: Tensor) -> None:
        """From now on, row k is what row `rows[k]` was; rows may be repeated or left out."""
        self._cache.batch_select_indices(rows)
        self._visible = self._visible[rows]

    @torch.no_grad()
    def image_logits(self, segments: Tensor) -> Tensor:
        """Logits of the image codes, as `Showo.image_logits` gives for the whole sequences.

        Args:
            segments: (rows, tokens + 2), from soi to eoi.

        Returns:
            (rows, tokens, codebook_size) float32.

        Raises:
            RuntimeError: an earlier call broke off (out of memory, say) and left its own states among the prompts'.
        """
        if self._cache.get_seq_length() != self._visible.shape[1]:
            raise RuntimeError("an earlier forward pass broke off; the sampling must be started anew")
        rows, length = segments.shape
        visible = torch.cat([self._visible, self._visible.new_ones(rows, length)], dim=1)
        mask = visible[:, None, None].expand(-1, -1, length, -1)
        logits = self._showo.image_logits(segments, mask, self._cache)
        self._cache.crop(-length)
        return logits
