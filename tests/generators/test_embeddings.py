"""Embeddings as they are handed around: rows keep their references, and what cannot share a batch is refused."""

import pytest
import torch

from assay.errors import ConfigError
from generators.embeddings import PromptEmbeddings


def embeddings(number: int, seed: int, reference_tokens: int = 0) -> PromptEmbeddings:
    generator = torch.Generator().manual_seed(seed)
    tokens, pooled = torch.randn(number, 3, 5, generator=generator), torch.randn(number, 4, generator=generator)
    if not reference_tokens:
        return PromptEmbeddings(tokens, pooled)
    references = torch.randn(number, reference_tokens, 6, generator=generator)
    return PromptEmbeddings(
        tokens, None, references, torch.arange(4 * reference_tokens).view(1, -1, 4).expand(number, -1, -1)
    )


def test_concatenation_keeps_rows_in_order() -> None:
    first, second = embeddings(2, 0, 7), embeddings(1, 1, 7)
    both = PromptEmbeddings.concatenate([first, second])
    assert len(both) == 3
    assert torch.equal(both.tokens[2], second.tokens[0])
    assert both.pooled is None
    assert both.references is not None
    assert second.references is not None
    assert torch.equal(both.references[2], second.references[0])
    assert both.reference_ids is not None
    assert both.reference_ids.shape == (3, 7, 4)


def test_repetition() -> None:
    three = embeddings(1, 0, 7).repeat(3)
    assert three.tokens.shape == (3, 3, 5)
    assert three.references is not None
    assert torch.equal(three.references[0], three.references[2])


def test_the_negative_branch_keeps_the_references() -> None:
    prompts, negative = embeddings(3, 0, 7), embeddings(1, 1)
    branch = PromptEmbeddings(negative.tokens).matching(prompts)
    assert torch.equal(branch.tokens, negative.tokens.expand(3, -1, -1))
    assert branch.references is prompts.references
    assert branch.reference_ids is prompts.reference_ids
    both = PromptEmbeddings.concatenate([branch, prompts])
    assert both.references is not None
    assert torch.equal(both.references[:3], both.references[3:])


def test_only_one_text_can_be_negative() -> None:
    with pytest.raises(ConfigError, match="2 negative prompts were given; one is needed"):
        embeddings(2, 0).matching(embeddings(3, 1))


def test_references_of_other_shapes_cannot_be_concatenated() -> None:
    with pytest.raises(ConfigError, match="references of 7 and 8 tokens cannot share a batch"):
        PromptEmbeddings.concatenate([embeddings(1, 0, 7), embeddings(1, 1, 8)])
    with pytest.raises(ConfigError, match="references of 0 and 7 tokens cannot share a batch"):
        PromptEmbeddings.concatenate([embeddings(1, 0, 7), embeddings(1, 1)])


def test_moving_keeps_what_is_not_there_not_there() -> None:
    moved = embeddings(1, 0).to("cpu")
    assert moved.references is None
    assert moved.reference_ids is None
