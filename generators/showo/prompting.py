"""Sequences: from texts and image tokens to the ids that Show-o reads.

    [PAD] ... [PAD] t2i sot text eot | soi image tokens eoi

The part before the bar has `max_sequence_length` + 1 ids, whatever the text. sot and eot are the tokenizer's marks of
begin and end (one and the same in Phi's). No text at all, "", gives `t2i sot eot`: the unconditional sequence.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from assay.errors import ConfigError
from generators.showo.vocabulary import Vocabulary

IGNORED = -100  # a label that no loss counts


class PromptLayout:
    """Lays out sequences of one vocabulary.

    Args:
        vocabulary: the ids.
        tokenizer: of the texts; has begin and end marks.
        max_sequence_length: of a text, its marks included but for t2i; longer texts are cut, their end mark stays.

    Raises:
        ConfigError: the tokenizer has no marks, or more tokens than the vocabulary has for it; or the length is too
            small.
    """

    def __init__(self, vocabulary: Vocabulary, tokenizer: Any, max_sequence_length: int = 128) -> None:
        if max_sequence_length < 2:
            raise ConfigError(f"max_sequence_length is {max_sequence_length}; allowed: at least 2, for sot and eot")
        if len(tokenizer) > vocabulary.llm_vocab_size:
            raise ConfigError(
                f"llm_vocab_size is {vocabulary.llm_vocab_size}; allowed: at least {len(tokenizer)}, "
                "the number of the tokenizer's tokens"
            )
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer has no bos_token or no eos_token; Show-o's prompts need both")
        self.vocabulary = vocabulary
        self._tokenizer = tokenizer
        self._length = max_sequence_length + 1

    @property
    def prefix_length(self) -> int:
        """Number of ids before soi."""
        return self._length

    def prefixes(self, texts: Sequence[str]) -> Tensor:
        """What stands before soi: (texts, prefix_length) int64."""
        return torch.tensor([self._prefix(text) for text in texts], dtype=torch.int64)

    def sequences(self, texts: Sequence[str], image_ids: Tensor) -> Tensor:
        """Whole sequences.

        Args:
            texts: one for each image.
            image_ids: (texts, tokens) ids of the vocabulary (codes + image_offset, or mask).

        Returns:
            (texts, prefix_length + tokens + 2) int64, on the device of `image_ids`.
        """
        return torch.cat([self.prefixes(texts).to(image_ids.device), image_segments(image_ids, self.vocabulary)], dim=1)

    def training_sequences(
        self,
        texts: Sequence[str],
        image_ids: Tensor,
        image_labels: Tensor,
        dropped: Sequence[bool] | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Whole sequences and what to predict in each place.

        Args:
            texts: one for each image.
            image_ids: (texts, tokens), some of them mask.
            image_labels: (texts, tokens), the true ids of masked tokens and `IGNORED` elsewhere.
            dropped: whether to leave out each text (it is drawn as ""), so that guidance has something to lean on.

        Returns:
            Ids and labels, each (texts, prefix_length + tokens + 2) int64. PADs are `IGNORED`; text, soi and eoi are
            their own labels, and losses on images start at `prefix_length`, with soi.
        """
        kept = texts if dropped is None else ["" if gone else text for text, gone in zip(texts, dropped, strict=True)]
        ids, labels = self.sequences(kept, image_ids), self.sequences(kept, image_labels)
        return ids, labels.masked_fill(labels == self.vocabulary.pad, IGNORED)

    def _prefix(self, text: str) -> list[int]:
        start, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        tokens = self._tokenizer(text, add_special_tokens=False).input_ids
        if tokens[:1] != [start]:
            tokens = [start, *tokens]
        ids = [self.vocabulary.t2i, *tokens[: self._length - 2], end]
        return [self.vocabulary.pad] * (self._length - len(ids)) + ids


def image_segments(image_ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """soi, the image tokens, eoi: (batch, tokens) -> (batch, tokens + 2)."""
    start, end = (image_ids.new_full((len(image_ids), 1), mark) for mark in (vocabulary.soi, vocabulary.eoi))
    return torch.cat([start, image_ids, end], dim=1)
