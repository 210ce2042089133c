"""An answer from the log-probabilities of the few likeliest tokens: all that an OpenAI-compatible server tells.

With Y and N the listed probability of tokens that spell yes and no, and R what is not listed, each token of which is at
most as likely as the last one listed:

    both listed       p = Y / (Y + N)
    one not listed    p as if it were one token, as likely as the last one listed, or as R where that is less
    neither listed    no answer

So an answer that is cut off stays on its side of 1/2, is not silently 0 or 1, and says so in `truncated`. `p_lowest`
and `p_highest` bound the true p in every case: all of R may spell yes, or all of it no.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from assay.answer_tokens import Forms
from assay.vision_language.answers import Answer, log_sum_exp, probability

# vLLM writes the probability 0 of tokens that its samplers cut away as -9999, and JSON has no infinity.
_CUT_AWAY = -9000.0
# The listed probabilities come in single precision: what they leave is not known better than this.
_ROUNDING = 1e-6


class UnreadableAnswerError(ValueError):
    """No probability can be read from what a server listed. `reason` is the UPPER_SNAKE reason given to callers."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ListedToken:
    """A token as text, with its log-probability."""

    text: str
    logprob: float


def answer_from_top(listed: Sequence[ListedToken], yes: str, no: str, forms: Forms) -> Answer:
    """An answer from the tokens listed for its first place, in any order.

    Args:
        listed: the likeliest tokens.
        yes, no: the words.
        forms: `any` case and space around, or the `exact` word.

    Raises:
        UnreadableAnswerError: nothing is listed, neither word is, or tokens were cut away before the probabilities
            were taken, so that they are not the model's.
    """
    if not listed:
        raise UnreadableAnswerError("LOGPROBS_MISSING", "the judge's server listed no log-probabilities")
    if any(token.logprob > _ROUNDING or math.isnan(token.logprob) for token in listed):
        raise UnreadableAnswerError("LOGPROBS_INVALID", "the judge's server listed log-probabilities that are none")
    if any(token.logprob < _CUT_AWAY for token in listed):
        raise UnreadableAnswerError(
            "LOGPROBS_TRUNCATED", "the judge's server took its log-probabilities after top-k or top-p"
        )
    top = max(listed, key=lambda token: token.logprob)
    said_yes, said_no = ([one.logprob for one in listed if _spells(one.text, word, forms)] for word in (yes, no))
    if not said_yes and not said_no:
        raise UnreadableAnswerError(
            "ANSWER_NOT_LISTED",
            f"the judge answered {top.text!r}; neither {yes!r} nor {no!r} is among its {len(listed)} likeliest tokens",
        )
    shown = math.fsum(math.exp(one.logprob) for one in listed)
    unlisted = math.log(max(_ROUNDING, 1.0 - shown))
    one_token = min(unlisted, *(one.logprob for one in listed))
    # What may be added to each word. Of exact words, one that is listed has no further token, one that is not has one.
    spare_yes, spare_no = (
        [unlisted] if forms == "any" else [] if said else [one_token] for said in (said_yes, said_no)
    )
    margin = log_sum_exp(said_yes or [one_token]) - log_sum_exp(said_no or [one_token])
    components = {
        "p": probability(margin),
        "margin": margin,
        "p_lowest": probability(log_sum_exp(said_yes) - log_sum_exp([*said_no, *spare_no])),
        "p_highest": probability(log_sum_exp([*said_yes, *spare_yes]) - log_sum_exp(said_no)),
        "answered": min(1.0, math.exp(log_sum_exp([*said_yes, *said_no]))),
        "valid": float(_spells(top.text, yes, forms) or _spells(top.text, no, forms)),
        "truncated": float(not (said_yes and said_no)),
    }
    return Answer(components["p"], top.text.strip(), components)


def _spells(text: str, word: str, forms: Forms) -> bool:
    return text == word if forms == "exact" else text.strip().casefold() == word.casefold()
