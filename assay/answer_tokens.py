"""Which tokens of a vocabulary spell yes and no.

A model may begin its answer with `yes`, `Yes` or the token that has the space before in it; which one it prefers
depends on how it was trained, and mass on one is not a vote against another. So by default all tokens count whose text
is the word, up to case and the space around it. `exact` counts the one token of the word as written: what the published
fine-tuned verifiers were read by.
"""

from dataclasses import dataclass
from typing import Any, Literal

from assay.errors import ConfigError

Forms = Literal["any", "exact"]


@dataclass(frozen=True)
class AnswerTokens:
    """Token ids that spell yes, and no; sorted, no id in both."""

    yes: tuple[int, ...]
    no: tuple[int, ...]


def find_answer_tokens(tokenizer: Any, yes: str, no: str, forms: Forms) -> AnswerTokens:
    """The tokens of both words.

    Args:
        tokenizer: of transformers.
        yes, no: the words.
        forms: `any` case and space around, or the `exact` word.

    Raises:
        ConfigError: a word has no token of its own.
    """
    return AnswerTokens(
        _find(tokenizer, "answers.affirmative", yes, forms), _find(tokenizer, "answers.negative", no, forms)
    )


def _find(tokenizer: Any, field: str, word: str, forms: Forms) -> tuple[int, ...]:
    if forms == "exact":
        ids = tokenizer.encode(word, add_special_tokens=False)
        found = tuple(ids) if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else ()
    else:
        spelt = word.casefold()
        vocabulary = tokenizer.get_vocab().items()
        # Tokens hold spaces in signs of their own, which only decoding knows; looking at ASCII first saves time.
        likely = [index for token, index in vocabulary if not spelt.isascii() or spelt in token.casefold()]
        found = tuple(sorted(index for index in likely if tokenizer.decode([index]).strip().casefold() == spelt))
    if not found:
        raise ConfigError(
            f"{field} = {word!r}: the model's tokenizer has no single token for it; allowed: a word that is one token",
            reason="ANSWER_NOT_A_TOKEN",
        )
    return found
