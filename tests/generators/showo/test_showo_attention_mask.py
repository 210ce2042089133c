"""The attention mask, row by row as it was worked out by hand."""

import torch

from generators.showo.attention_mask import additive, text_to_image_mask
from generators.showo.vocabulary import Vocabulary

VOCABULARY = Vocabulary(llm_vocab_size=20, codebook_size=4)
PAD, SOI, EOI, T2I, MARK, IMAGE = VOCABULARY.pad, VOCABULARY.soi, VOCABULARY.eoi, VOCABULARY.t2i, 19, VOCABULARY.mask


def rows(sequence: list[int]) -> list[list[int]]:
    mask = text_to_image_mask(torch.tensor([sequence]), VOCABULARY)
    assert mask.shape == (1, 1, len(sequence), len(sequence))
    return [row.nonzero()[:, 0].tolist() for row in mask[0, 0]]


def test_two_pads_one_word_three_image_tokens() -> None:
    everything = list(range(2, 11))
    assert rows([PAD, PAD, T2I, MARK, 5, MARK, SOI, IMAGE, IMAGE, IMAGE, EOI]) == [
        [0],
        [0, 1],
        [2],
        [2, 3],
        [2, 3, 4],
        [2, 3, 4, 5],
        *[everything] * 5,
    ]


def test_without_pads_the_image_sees_all() -> None:
    assert rows([T2I, MARK, MARK, SOI, IMAGE, EOI]) == [[0], [0, 1], [0, 1, 2], *[[0, 1, 2, 3, 4, 5]] * 3]


def test_what_stands_before_the_image_has_the_same_mask_alone() -> None:
    """So that a prompt can be read once."""
    sequence = [PAD, PAD, T2I, MARK, 5, MARK, SOI, IMAGE, EOI]
    assert rows(sequence[:6]) == rows(sequence)[:6]


def test_each_row_of_a_batch_has_its_own_pads() -> None:
    ids = torch.tensor([[PAD, T2I, MARK, MARK, SOI, 31, EOI], [T2I, MARK, 3, MARK, SOI, 31, EOI]])
    both = text_to_image_mask(ids, VOCABULARY)
    for index in range(2):
        assert torch.equal(both[index : index + 1], text_to_image_mask(ids[index : index + 1], VOCABULARY))
    assert not torch.equal(both[0], both[1])


def test_the_additive_form_is_the_published_one() -> None:
    mask = additive(torch.tensor([[True, False]]))
    assert mask.dtype == torch.float32
    assert mask.tolist() == [[0.0, -(2.0**63)]]
    assert additive(torch.tensor([False]), torch.float16).tolist() == [-torch.inf]
