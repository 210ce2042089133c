"""Which ids mean what: the language model's tokens, Show-o's marks, the image codes, and the mask.

    0 ... llm_vocab_size - 1     the text tokenizer's own
    llm_vocab_size               [PAD], then soi, eoi, sov, eov, t2i, mmu, t2v, v2v, lvg
    image_offset + c             image code c, of codebook_size
    mask (the last id)           an image token that is to be predicted

All follows from three numbers, so that a small vocabulary has the same order as the published one.
"""

from dataclasses import dataclass
from typing import Any, Self

from assay.errors import ConfigError

#: In the order of their ids, the first one directly behind the text tokens.
MARKS = ("pad", "soi", "eoi", "sov", "eov", "t2i", "mmu", "t2v", "v2v", "lvg")


@dataclass(frozen=True)
class Vocabulary:
    """The ids of a Show-o; the defaults are those of the published models, 58,498 ids in all.

    Args:
        llm_vocab_size: number of the text tokenizer's tokens.
        num_new_special_tokens: of the marks, at least as many as there are `MARKS`.
        codebook_size: number of image codes.

    Raises:
        ConfigError: a number is too small.
    """

    llm_vocab_size: int = 50295
    num_new_special_tokens: int = len(MARKS)
    codebook_size: int = 8192

    def __post_init__(self) -> None:
        for name, least in (("llm_vocab_size", 1), ("num_new_special_tokens", len(MARKS)), ("codebook_size", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; allowed: at least {least}")

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Of a Show-o's configuration, which says the number of marks by what it leaves for them.

        Args:
            config: has `vocab_size`, `llm_vocab_size`, `codebook_size` and `mask_token_id` (None: the last id).

        Raises:
            ConfigError: the numbers contradict each other.
        """
        marks = config.vocab_size - config.llm_vocab_size - config.codebook_size - 1
        if marks < len(MARKS):
            needed = config.llm_vocab_size + len(MARKS) + config.codebook_size + 1
            raise ConfigError(
                f"vocab_size is {config.vocab_size}; allowed: at least {needed}, to hold all kinds of ids"
            )
        vocabulary = cls(config.llm_vocab_size, marks, config.codebook_size)
        if config.mask_token_id not in (None, vocabulary.mask):
            raise ConfigError(f"mask_token_id is {config.mask_token_id}; allowed: {vocabulary.mask}, the last id")
        return vocabulary

    @property
    def pad(self) -> int:
        return self.llm_vocab_size

    @property
    def soi(self) -> int:
        """Start of an image."""
        return self._mark("soi")

    @property
    def eoi(self) -> int:
        """End of an image."""
        return self._mark("eoi")

    @property
    def t2i(self) -> int:
        """The task: draw what the text says."""
        return self._mark("t2i")

    @property
    def image_offset(self) -> int:
        """The id of image code 0."""
        return self.llm_vocab_size + self.num_new_special_tokens

    @property
    def mask(self) -> int:
        return self.image_offset + self.codebook_size

    @property
    def size(self) -> int:
        return self.mask + 1

    def _mark(self, name: str) -> int:
        return self.llm_vocab_size + MARKS.index(name)
