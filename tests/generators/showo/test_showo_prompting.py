"""Sequences as the published model was trained on them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_showo import TOKENIZER

from assay.errors import ConfigError
from generators.showo.prompting import PromptLayout
from generators.showo.vocabulary import MARKS, Vocabulary

TEXT = len(TOKENIZER)
SMALL = Vocabulary(llm_vocab_size=TEXT, codebook_size=8)
MARK = TOKENIZER.bos_token_id


class PhiLike:
    """Has Phi's marks; a word is one token, its length."""

    bos_token_id = eos_token_id = 50256

    def __len__(self) -> int:
        return 50295

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        assert not add_special_tokens
        tokens = [self.bos_token_id if word == "<|endoftext|>" else len(word) for word in text.split()]
        return SimpleNamespace(input_ids=tokens)


def test_ids_are_the_published_ones() -> None:
    vocabulary = Vocabulary()
    marks = {name: vocabulary.llm_vocab_size + place for place, name in enumerate(MARKS)}
    assert marks == {
        "pad": 50295, "soi": 50296, "eoi": 50297, "sov": 50298, "eov": 50299,
        "t2i": 50300, "mmu": 50301, "t2v": 50302, "v2v": 50303, "lvg": 50304,
    }  # fmt: skip
    assert (vocabulary.pad, vocabulary.soi, vocabulary.eoi, vocabulary.t2i) == (50295, 50296, 50297, 50300)
    assert (vocabulary.image_offset, vocabulary.mask, vocabulary.size) == (50305, 58497, 58498)


def test_the_published_lengths() -> None:
    layout = PromptLayout(Vocabulary(), PhiLike())
    assert layout.prefix_length == 129
    for tokens, length in ((256, 387), (1024, 1155)):
        assert layout.sequences(["one two"], torch.zeros(1, tokens, dtype=torch.int64)).shape == (1, length)


def test_a_short_text_is_padded_on_the_left() -> None:
    prefix = PromptLayout(Vocabulary(), PhiLike()).prefixes(["a bb ccc"])[0].tolist()
    assert prefix == [50295] * 123 + [50300, 50256, 1, 2, 3, 50256]


def test_a_long_text_is_cut_and_keeps_its_end() -> None:
    layout = PromptLayout(Vocabulary(), PhiLike())
    fits, cut = (layout.prefixes([" ".join(["a"] * 125 + ["bb"] * more)])[0].tolist() for more in (1, 2))
    assert fits == cut == [50300, 50256, *[1] * 125, 2, 50256][:129]
    assert layout.prefixes([" ".join(["a"] * 400)])[0].tolist() == [50300, 50256, *[1] * 126, 50256]


def test_no_text_is_the_unconditional_triple() -> None:
    prefix = PromptLayout(Vocabulary(), PhiLike()).prefixes([""])[0].tolist()
    assert prefix == [50295] * 126 + [50300, 50256, 50256]


def test_a_text_that_begins_with_the_mark_gets_no_second_one() -> None:
    prefix = PromptLayout(Vocabulary(), PhiLike()).prefixes(["<|endoftext|> a"])[0].tolist()
    assert prefix[-4:] == [50300, 50256, 1, 50256]


def test_words_that_look_like_marks_stay_words() -> None:
    ids = PromptLayout(SMALL, TOKENIZER, 40).prefixes(["<|t2i|> [PAD] a"])[0]
    assert (ids == SMALL.t2i).sum() == 1
    assert (ids == SMALL.pad).int().diff().abs().sum() == 1  # nowhere but in front


def test_a_small_vocabulary_has_the_same_layout() -> None:
    layout = PromptLayout(SMALL, TOKENIZER, 8)
    image = torch.tensor([[SMALL.image_offset + 3, SMALL.mask]])
    ids = layout.sequences(["a cup"], image)[0].tolist()
    words = TOKENIZER("a cup").input_ids
    assert ids == [SMALL.pad] * 4 + [
        SMALL.t2i,
        MARK,
        *words,
        MARK,
        SMALL.soi,
        SMALL.image_offset + 3,
        SMALL.mask,
        SMALL.eoi,
    ]


def test_labels_hold_the_masked_tokens_and_all_but_pads() -> None:
    layout = PromptLayout(SMALL, TOKENIZER, 8)
    image = torch.tensor([[SMALL.image_offset + 3, SMALL.mask]] * 2)
    labels = torch.tensor([[-100, SMALL.image_offset + 5]] * 2)
    ids, wanted = layout.training_sequences(["a cup", "a cup"], image, labels, dropped=[False, True])
    words = TOKENIZER("a cup").input_ids
    assert ids[0].tolist()[4:] == [SMALL.t2i, MARK, *words, MARK, SMALL.soi, *image[0].tolist(), SMALL.eoi]
    assert wanted[0].tolist() == [-100] * 4 + [SMALL.t2i, MARK, *words, MARK, SMALL.soi, *labels[0].tolist(), SMALL.eoi]
    assert ids[1].tolist()[:9] == [SMALL.pad] * 6 + [SMALL.t2i, MARK, MARK]
    assert wanted[1].tolist() == [-100] * 6 + [SMALL.t2i, MARK, MARK, SMALL.soi, *labels[1].tolist(), SMALL.eoi]
    assert layout.prefix_length == 9


def test_no_dropping_unless_asked() -> None:
    layout = PromptLayout(SMALL, TOKENIZER, 8)
    image = torch.tensor([[SMALL.mask]])
    assert torch.equal(layout.training_sequences(["a cup"], image, image)[0], layout.sequences(["a cup"], image))


@pytest.mark.parametrize(
    ("vocabulary", "tokenizer", "length", "message"),
    [
        (SMALL, TOKENIZER, 1, r"max_sequence_length is 1; allowed: at least 2"),
        (Vocabulary(TEXT - 1), TOKENIZER, 8, rf"llm_vocab_size is {TEXT - 1}; allowed: at least {TEXT}"),
    ],
)
def test_what_does_not_fit_is_refused(vocabulary: Vocabulary, tokenizer: Any, length: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PromptLayout(vocabulary, tokenizer, length)


def test_a_tokenizer_without_marks_is_refused() -> None:
    class Markless(PhiLike):
        bos_token_id = None

    with pytest.raises(ConfigError, match="no bos_token or no eos_token"):
        PromptLayout(Vocabulary(), Markless())


@pytest.mark.parametrize("name", ["llm_vocab_size", "num_new_special_tokens", "codebook_size"])
def test_vocabularies_that_are_too_small_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0; allowed: at least"):
        Vocabulary(**{name: 0})
