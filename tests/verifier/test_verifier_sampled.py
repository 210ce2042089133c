"""The published verifiers' protocol, with its defects: what they are, and that the default has none of them."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_verifiers import random_images

from assay.errors import ConfigError
from assay.vision_language.answers import Answer
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.vision_language_model import VisionLanguageModel
from services.verifier.readings import SAMPLED
from services.verifier.sampled_judge import SampledJudge

QUESTIONS = ("<image> Is this a kite?", "And an apple?")


@pytest.fixture
def vlm(llava_folder: Path) -> VisionLanguageModel:
    return VisionLanguageModel.load(str(llava_folder), affirmation="yes", device="cpu")


def _ask(judge: SampledJudge, num_turns: int, seed: int = 0) -> tuple[Answer, ...]:
    torch.manual_seed(seed)
    (answers,) = judge.ask([Inquiry((random_images(1)[0],), QUESTIONS[:num_turns])])
    assert isinstance(answers, tuple)
    return answers


def _force(vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, weights: dict[str, float]) -> None:
    """Let the model give some tokens these weights at the last place, and all others none."""
    forward = vlm.model.forward
    ids = vlm.tokenizer.convert_tokens_to_ids(list(weights))

    @functools.wraps(forward)
    def forced(**inputs: torch.Tensor) -> object:
        outputs = forward(**inputs)
        outputs.logits = torch.full_like(outputs.logits, -60.0)
        outputs.logits[:, -1, ids] = torch.tensor(list(weights.values())).log()
        return outputs

    monkeypatch.setattr(vlm.model, "forward", forced)


def test_confidence_is_of_the_whole_vocabulary_and_not_of_the_two_words(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _force(vlm, monkeypatch, {"yes": 0.5, "no": 0.3, "Yes": 0.2})
    answer = _ask(SampledJudge(vlm, "yes", "no"), 1)[0]
    assert (answer.components["p_yes"], answer.components["p_no"]) == (pytest.approx(0.5), pytest.approx(0.3))


def test_top_p_saturates_confidences(vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap of processed scores: 0.848 becomes exactly 1 with the generation configuration of the family."""
    _force(vlm, monkeypatch, {"yes": 0.848, "no": 0.152})
    assert _ask(SampledJudge(vlm, "yes", "no"), 1)[0].p == pytest.approx(0.848)
    vlm.model.generation_config.update(do_sample=True, top_p=0.8)
    answer = _ask(SampledJudge(vlm, "yes", "no"), 1)[0]
    assert (answer.components["p_yes"], answer.components["p_no"]) == (1.0, 0.0)


def test_a_penalty_of_the_models_configuration_does_not_reach_the_first_token(vlm: VisionLanguageModel) -> None:
    """The question itself holds both words; the published code passes embeddings, which no penalty looks at."""
    inquiry = Inquiry((random_images(1)[0],), ("<image> Is this a kite? Answer yes or no.",))
    judge = SampledJudge(vlm, "yes", "no")
    before = judge.ask([inquiry])[0][0].components  # type: ignore[index]
    vlm.model.generation_config.repetition_penalty = 5.0
    after = judge.ask([inquiry])[0][0].components  # type: ignore[index]
    assert (after["p_yes"], after["p_no"]) == (before["p_yes"], before["p_no"])


def test_answers_are_drawn(vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    _force(vlm, monkeypatch, {"yes": 0.5, "no": 0.5})
    judge = SampledJudge(vlm, "yes", "no")
    assert {_ask(judge, 1, seed)[0].word for seed in range(12)} == {"yes", "no"}
    assert not judge.deterministic


def test_case_is_forgiven_and_the_confidence_is_of_the_lower_case_word(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _force(vlm, monkeypatch, {"Yes": 1.0})
    answers = _ask(SampledJudge(vlm, "yes", "no"), 1)
    assert answers[0].components["said_yes"] == 1.0
    assert SAMPLED["orm"].value(answers) == pytest.approx(0.0, abs=1e-12)


def test_the_space_before_is_not_forgiven(vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    _force(vlm, monkeypatch, {"\u0120yes": 1.0})
    answers = _ask(SampledJudge(vlm, "yes", "no"), 2)
    assert answers[0].components["said_yes"] == 0.0
    assert len(answers) == 2  # whatever is not no is clear
    assert SAMPLED["parm-potential"].components(answers)["score"] == 50.0


def test_an_answer_that_is_none_is_told_and_counted(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The published protocol makes numbers of them; here nobody need take one for a judgement."""
    judge = SampledJudge(vlm, "yes", "no")
    _force(vlm, monkeypatch, {"yes": 0.5, "no": 0.5})
    assert SAMPLED["orm"].components(_ask(judge, 1))["valid"] == 1.0
    assert not caplog.records
    monkeypatch.undo()
    _force(vlm, monkeypatch, {"\u0120yes": 1.0})
    answers = _ask(judge, 2)
    for name, value in (("orm", 0.0), ("parm-clarity", 1.0)):
        assert SAMPLED[name].value(answers[:1]) == value
        assert SAMPLED[name].components(answers[:1])["valid"] == 0.0
    components = SAMPLED["parm-potential"].components(answers)
    assert (components["score"], components["clarity/valid"], components["valid"]) == (50.0, 0.0, 0.0)
    for _ in range(10):
        _ask(judge, 1)
    # A model that answers nothing valid must not fill the log: the first is told, the tenth, the hundredth.
    assert [record.getMessage().rpartition("; ")[2] for record in caplog.records] == [
        "1 of 2 answers so far",
        "10 of 11 answers so far",
    ]


def test_the_follow_up_is_asked_unless_the_answer_was_no(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _force(vlm, monkeypatch, {"no": 1.0})
    assert len(_ask(SampledJudge(vlm, "yes", "no"), 2)) == 1


def test_more_tokens_change_no_answer(vlm: VisionLanguageModel) -> None:
    one, many = (SampledJudge(vlm, "yes", "no", max_new_tokens=count) for count in (1, 5))
    assert _ask(one, 1) == _ask(many, 1)


def test_words_that_are_no_tokens_are_refused(vlm: VisionLanguageModel) -> None:
    with pytest.raises(ConfigError, match=r"answers\.affirmative = 'yes indeed' is no token"):
        SampledJudge(vlm, "yes indeed", "no")


def _said(word: str, p_yes: float, p_no: float) -> Answer:
    said = {"said_yes": float(word == "yes"), "said_no": float(word == "no"), "valid": float(word in ("yes", "no"))}
    return Answer(p_yes, word, {"p_yes": p_yes, "p_no": p_no, **said})


YES, NO, ODD = _said("yes", 0.7, 0.2), _said("no", 0.6, 0.3), _said("maybe", 0.4, 0.1)


@pytest.mark.parametrize(
    ("scorer", "answers", "value"),
    [
        ("orm", [YES], 0.7),
        ("orm", [NO], 0.6),  # ranked by the confidence in yes, whatever was drawn
        ("orm", [ODD], 0.0),
        ("parm-clarity", [YES], 1.0),
        ("parm-clarity", [NO], 0.0),
        ("parm-clarity", [ODD], 1.0),
        ("parm-potential", [NO], 0.0),  # not clear: score 1
        ("parm-potential", [YES, YES], 0.8),
        ("parm-potential", [ODD, NO], 0.7),
        ("parm-potential", [YES, ODD], -49.0),
    ],
)
def test_values_of_the_published_protocol(scorer: str, answers: list[Answer], value: float) -> None:
    reading = SAMPLED[scorer]
    assert reading.value(answers) == pytest.approx(value)
    lowest, highest = reading.value_range
    assert lowest <= reading.value(answers) <= highest


def test_the_best_of_the_published_ranking_is_the_best_here() -> None:
    """The reference takes the lowest score among those that have potential or not; here higher values are better."""
    rows = [[NO], [YES, YES], [YES, NO], [YES, ODD]]
    reading: Callable[..., float] = SAMPLED["parm-potential"].value
    scores = [SAMPLED["parm-potential"].components(row)["score"] for row in rows]
    assert scores == [1.0, 0.2, 0.3, 50.0]
    assert min(range(4), key=scores.__getitem__) == max(range(4), key=lambda index: reading(rows[index])) == 1
    flags = [SAMPLED["parm-potential"].components(row) for row in rows]
    assert [(flag["is_clear"], flag["has_potential"]) for flag in flags] == [(0, 0), (1, 1), (1, 0), (1, 0)]
