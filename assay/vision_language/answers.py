"""What a judge answered, in numbers. Pure arithmetic.

With logit(w) of an answer the logarithm of the sum of exp over the logits of all tokens that spell it:

    margin = logit(yes) - logit(no)
    p      = 1 / (1 + exp(-margin)) = P(yes) / (P(yes) + P(no))

so p is the probability of yes, given that the answer is yes or no. It needs no sampling and no threshold. Of two
margins beyond 37 the p are both 1 in double precision: rank by `margin` where that matters.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What a judge said to one question.

    Args:
        p: in [0, 1]; for the sampled protocol, see `services.verifier.readings`.
        word: what it wanted to say most, or said.
        components: further numbers, by name.
    """

    p: float
    word: str
    components: Mapping[str, float]


def probability(margin: float) -> float:
    """1 / (1 + exp(-margin)), without overflow."""
    if margin >= 0:
        return 1.0 / (1.0 + math.exp(-margin))
    return math.exp(margin) / (1.0 + math.exp(margin))


def log_sum_exp(values: Iterable[float]) -> float:
    """log of the sum of exp; minus infinity of nothing."""
    numbers = list(values)
    highest = max(numbers, default=-math.inf)
    if highest == -math.inf:
        return highest
    return highest + math.log(math.fsum(math.exp(number - highest) for number in numbers))


def answer_from_logits(
    yes: Iterable[float], no: Iterable[float], log_normalizer: float, word: str, is_valid: bool
) -> Answer:
    """An answer from the logits at the place where it begins.

    Args:
        yes, no: raw logits of the tokens that spell them, at least one each.
        log_normalizer: log of the sum of exp over the logits of the whole vocabulary.
        word: the token with the highest logit, as text.
        is_valid: whether that token is one of those that spell yes or no.
    """
    logit_yes, logit_no = log_sum_exp(yes), log_sum_exp(no)
    margin = logit_yes - logit_no
    p = probability(margin)
    components = {
        "p": p,
        "margin": margin,
        "logit_yes": logit_yes,
        "logit_no": logit_no,
        "answered": min(1.0, math.exp(log_sum_exp((logit_yes, logit_no)) - log_normalizer)),
        "valid": float(is_valid),
    }
    return Answer(p, word, components)
