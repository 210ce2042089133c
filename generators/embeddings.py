"""Encoded prompts and reference images, as sampling and training hand them around. Knows no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.errors import ConfigError


@dataclass(frozen=True)
class PromptEmbeddings:
    """What the transformer is told about each image of a batch.

    Args:
        tokens: (batch, sequence, width) of the text; (batch, sequence) int64 ids of a model that reads texts itself.
        pooled: (batch, pooled width) of the text; None where the model takes none.
        references: (batch, reference tokens, channels), clean latents of the images to start from, in packed form;
            None without references.
        reference_ids: (batch, reference tokens, 4), positions of these tokens. The same in every row: models read the
            first row's.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    references: Tensor | None = None
    reference_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def repeat(self, number: int) -> "PromptEmbeddings":
        """The one prompt of this batch, `number` times. Nothing is copied."""
        return self._map(lambda tensor: tensor.expand(number, *tensor.shape[1:]))

    def row(self, index: int) -> "PromptEmbeddings":
        """One row, as a batch of 1."""
        return self._map(lambda tensor: tensor[index : index + 1])

    def to(self, device: torch.device | str) -> "PromptEmbeddings":
        return self._map(lambda tensor: tensor.to(device))

    def matching(self, prompts: "PromptEmbeddings") -> "PromptEmbeddings":
        """This one text for every row of `prompts`, with the references of `prompts`.

        It is the other branch of classifier-free guidance: the empty prompt, but the same images to start from.

        Raises:
            ConfigError: this batch holds not one text.
        """
        if len(self) != 1:
            raise ConfigError(f"{len(self)} negative prompts were given; one is needed")
        texts = self.repeat(len(prompts))
        return PromptEmbeddings(texts.tokens, texts.pooled, prompts.references, prompts.reference_ids)

    @staticmethod
    def concatenate(parts: Sequence["PromptEmbeddings"]) -> "PromptEmbeddings":
        """All rows of all parts.

        Raises:
            ConfigError: the parts' references differ in number or size, or only some parts have any.
        """
        _check_references([part.reference_ids for part in parts])
        return PromptEmbeddings(
            torch.cat([part.tokens for part in parts]),
            _concatenated([part.pooled for part in parts]),
            _concatenated([part.references for part in parts]),
            _concatenated([part.reference_ids for part in parts]),
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> "PromptEmbeddings":
        fields = (self.tokens, self.pooled, self.references, self.reference_ids)
        tokens, pooled, references, ids = (None if field is None else change(field) for field in fields)
        assert tokens is not None
        return PromptEmbeddings(tokens, pooled, references, ids)


def _concatenated(fields: list[Tensor | None]) -> Tensor | None:
    present = [field for field in fields if field is not None]
    return torch.cat(present) if present else None


def _check_references(ids: list[Tensor | None]) -> None:
    numbers = sorted({0 if row is None else row.shape[1] for row in ids})
    if len(numbers) > 1:
        raise ConfigError(
            f"references of {' and '.join(map(str, numbers))} tokens cannot share a batch; "
            "allowed: as many reference images for every prompt, of the same sizes"
        )
    # a wide and a high image can have as many tokens, but their positions differ
    rows = [row[0] for row in ids if row is not None]
    if any(not torch.equal(row, rows[0]) for row in rows[1:]):
        raise ConfigError(
            "references of different sizes cannot share a batch; allowed: reference images of the same sizes, in the "
            "same order, for every prompt"
        )
