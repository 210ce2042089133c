"""The arithmetic of answers, against numbers worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.vision_language.answers import answer_from_logits, log_sum_exp, probability
from assay.vision_language.top_logprobs import ListedToken, UnreadableAnswerError, answer_from_top


def _top(**probabilities: float) -> list[ListedToken]:
    """Names with an underscore begin with a space."""
    return [ListedToken(name.replace("_", " "), math.log(p)) for name, p in probabilities.items()]


def test_probability_by_hand() -> None:
    assert probability(0.0) == 0.5
    assert probability(math.log(3)) == pytest.approx(0.75, abs=1e-15)
    assert probability(-math.log(4)) == pytest.approx(0.2, abs=1e-15)
    assert probability(1000.0) == 1.0
    assert probability(-1000.0) == 0.0
    assert log_sum_exp([]) == -math.inf
    assert log_sum_exp([1000.0, 1000.0]) == pytest.approx(1000.0 + math.log(2))


def test_answer_from_logits_by_hand() -> None:
    """Of a vocabulary with weights yes 3, Yes 1, no 1, other 5: P(yes) = 4/10, P(no) = 1/10, p = 4/5."""
    answer = answer_from_logits([math.log(3), 0.0], [0.0], math.log(10), "other", is_valid=False)
    assert answer.p == pytest.approx(0.8)
    assert answer.word == "other"
    assert answer.components == {
        "p": pytest.approx(0.8),
        "margin": pytest.approx(math.log(4)),
        "logit_yes": pytest.approx(math.log(4)),
        "logit_no": 0.0,
        "answered": pytest.approx(0.5),
        "valid": 0.0,
    }


def test_top_logprobs_with_both_words_by_hand() -> None:
    """Y = 0.6, N = 0.2, R = 0.1: p = 0.75, between 0.6/0.9 and 0.7/0.9."""
    answer = answer_from_top(_top(yes=0.5, _Yes=0.1, no=0.2, maybe=0.1), "yes", "no", "any")
    assert answer.word == "yes"
    assert answer.components == {
        "p": pytest.approx(0.75),
        "margin": pytest.approx(math.log(3)),
        "p_lowest": pytest.approx(0.6 / 0.9),
        "p_highest": pytest.approx(0.7 / 0.9),
        "answered": pytest.approx(0.8),
        "valid": 1.0,
        "truncated": 0.0,
    }


def test_exact_form_counts_one_spelling() -> None:
    answer = answer_from_top(_top(yes=0.5, _Yes=0.1, no=0.2, maybe=0.1), "yes", "no", "exact")
    assert answer.p == pytest.approx(0.5 / 0.7)
    assert answer.components["p_lowest"] == answer.components["p_highest"] == pytest.approx(answer.p)


def test_a_missing_word_is_bounded_and_said_and_never_certain() -> None:
    """no is at most as likely as the last token listed, 0.02, though 0.08 is not listed."""
    answer = answer_from_top(_top(yes=0.8, maybe=0.1, perhaps=0.02), "yes", "no", "exact")
    assert answer.components["truncated"] == 1.0
    assert answer.p == pytest.approx(0.8 / 0.82)
    assert (answer.components["p_lowest"], answer.components["p_highest"]) == (pytest.approx(0.8 / 0.82), 1.0)
    any_form = answer_from_top(_top(yes=0.8, maybe=0.1, perhaps=0.02), "yes", "no", "any").components
    assert (any_form["p_lowest"], any_form["p_highest"]) == (pytest.approx(0.8 / 0.88), 1.0)


def test_a_sure_answer_without_the_other_word_is_not_silently_one() -> None:
    listed = [ListedToken("yes", 0.0), ListedToken("well", -20.0)]
    answer = answer_from_top(listed, "yes", "no", "any")
    assert answer.p < 1.0
    assert answer.components["margin"] == pytest.approx(20.0)
    assert answer.components["truncated"] == 1.0


def test_an_unsure_no_does_not_become_a_yes() -> None:
    """Half of the mass is unlisted: all of it may be yes, but no token of it is likelier than the no that is listed."""
    answer = answer_from_top(_top(maybe=0.45, no=0.05), "yes", "no", "any")
    assert answer.p == pytest.approx(0.5)
    assert answer.components["p_lowest"] == 0.0
    assert answer.components["valid"] == 0.0


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ([], "LOGPROBS_MISSING"),
        (_top(maybe=0.9, perhaps=0.05), "ANSWER_NOT_LISTED"),
        ([ListedToken("yes", 0.0), ListedToken("no", -9999.0)], "LOGPROBS_TRUNCATED"),
        ([ListedToken("yes", 0.0), ListedToken("no", -math.inf)], "LOGPROBS_TRUNCATED"),
        ([ListedToken("yes", 3.0), ListedToken("no", -1.0)], "LOGPROBS_INVALID"),
        ([ListedToken("yes", math.nan), ListedToken("no", -1.0)], "LOGPROBS_INVALID"),
    ],
)
def test_what_is_no_probability_is_no_score(listed: list[ListedToken], reason: str) -> None:
    with pytest.raises(UnreadableAnswerError) as caught:
        answer_from_top(listed, "yes", "no", "any")
    assert caught.value.reason == reason


@given(st.lists(st.floats(-800, 0), min_size=4, max_size=40), st.integers(2, 20), st.sampled_from(["any", "exact"]))
def test_bounds_hold_for_whatever_is_cut_off(logits: list[float], listed: int, forms: str) -> None:
    """The true p of a whole vocabulary (yes first, no second) lies within the bounds read from its likeliest tokens."""
    normalizer = log_sum_exp(logits)
    names = ["yes", "no", *(f"other{index}" for index in range(len(logits) - 2))]
    tokens = [ListedToken(name, logit - normalizer) for name, logit in zip(names, logits, strict=True)]
    true = probability(logits[0] - logits[1])
    shown = sorted(tokens, key=lambda token: -token.logprob)[:listed]
    if not {"yes", "no"} & {token.text for token in shown}:
        with pytest.raises(UnreadableAnswerError, match="neither 'yes' nor 'no' is among"):
            answer_from_top(shown, "yes", "no", forms)  # type: ignore[arg-type]
        return
    read = answer_from_top(shown, "yes", "no", forms).components  # type: ignore[arg-type]
    assert read["p_lowest"] - 1e-6 <= true <= read["p_highest"] + 1e-6
    assert read["p_lowest"] - 1e-9 <= read["p"] <= read["p_highest"] + 1e-9
    if read["truncated"]:
        assert (read["p"] - 0.5) * (true - 0.5) >= -1e-9
    else:
        assert read["p"] == pytest.approx(true, abs=1e-9)
