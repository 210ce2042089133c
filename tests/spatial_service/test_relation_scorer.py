"""`relation`: the model's probability, the miniature's detector beside it, and who abstains when."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.answer_tokens import find_answer_tokens
from assay.outcomes import Failed, Outcome, Scored
from assay.questions import QUESTION_FILES
from assay.serving.scorer import Sample, Scorer
from assay.tasks import GenEvalTask, ObjectClause, OutcomeTask, SpatialTask, Task
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.transformers_judge import TransformersJudge
from assay.vision_language.vision_language_model import VisionLanguageModel
from miniature.world import Scene, WorldObject
from services.spatial.relations import RELATIONS
from services.spatial.service import build_scorers

Image = NDArray[np.uint8]
DETECTOR = {"detector": {"model": "miniature/weights/detector"}, "device": "cpu", "threshold": 0.5}
GREY = ((150, 150, 150), (160, 160, 160))
LEFT_OF, RIGHT_OF = SpatialTask("apple", "left of", "cup"), SpatialTask("apple", "right of", "cup")


def _scene(*objects: tuple[str, str, int, int]) -> Image:
    """Objects as (class, colour, left, top), of 14 pixels."""
    rgb = {"red": (220, 30, 30), "blue": (30, 60, 220)}
    return Scene(
        tuple(WorldObject(name, color, left, top, 14, rgb[color]) for name, color, left, top in objects), GREY
    ).render()


APPLE_AND_CUP = _scene(("apple", "red", 4, 24), ("cup", "blue", 44, 26))
APPLE_ALONE = _scene(("apple", "red", 4, 24))
APPLE_ON_BOTH_SIDES = _scene(("apple", "red", 2, 24), ("cup", "blue", 26, 26), ("apple", "red", 48, 24))


def _build(folder: Path, **relation: Any) -> Scorer:
    backend = {"name": "transformers", "model": str(folder), "device": "cpu"}
    (scorer,) = build_scorers({"scorers": ["relation"], "relation": relation, "backend": backend})
    return scorer


def _score(scorer: Scorer, *pairs: tuple[Image, Task | None]) -> list[Outcome]:
    return list(scorer.score([Sample(str(n), (image,), "", task) for n, (image, task) in enumerate(pairs)]))


def _one(scorer: Scorer, image: Image, task: Task) -> Scored:
    outcome = _score(scorer, (image, task))[0]
    assert isinstance(outcome, Scored), outcome
    return outcome


@pytest.fixture(scope="module")
def by_model(judge_folder: Path) -> Scorer:
    return _build(judge_folder)


@pytest.fixture(scope="module")
def by_both(judge_folder: Path) -> Scorer:
    return _build(judge_folder, value="agree", detector=DETECTOR)


@pytest.fixture(scope="module")
def by_detector(judge_folder: Path) -> Scorer:
    return _build(judge_folder, value="detector", detector=DETECTOR)


def test_the_value_is_the_probability_of_yes_to_our_question(by_model: Scorer, judge_folder: Path) -> None:
    vlm = VisionLanguageModel.load(str(judge_folder), affirmation="yes", device="cpu")
    judge = TransformersJudge(vlm, find_answer_tokens(vlm.tokenizer, "yes", "no", "any"))
    template = (QUESTION_FILES / "spatial" / "relation.txt").read_text().removesuffix("\n")
    for relation in RELATIONS:
        question = template.format(subject="apple", relation=relation, reference="cup")
        asked = judge.ask([Inquiry((APPLE_AND_CUP,), (question,))])[0]
        assert not isinstance(asked, Failed)
        scored = _one(by_model, APPLE_AND_CUP, SpatialTask("apple", relation, "cup"))
        assert scored.value == pytest.approx(asked[0].p, abs=1e-5)
        assert scored.components == {
            "vlm_p": scored.value,
            "vlm_margin": pytest.approx(asked[0].components["margin"], abs=1e-4),
            "vlm_answered": pytest.approx(asked[0].components["answered"], abs=1e-5),
            "abstained": 0.0,
        }
        assert scored.evidence is not None
        assert scored.evidence.judge_text == asked[0].word
        assert f"apple {relation} cup: model" in scored.evidence.reason


def test_the_detector_sees_what_is_where(by_detector: Scorer, by_model: Scorer) -> None:
    left, right = (_one(by_detector, APPLE_AND_CUP, task) for task in (LEFT_OF, RIGHT_OF))
    assert (left.value, right.value) == (1.0, 0.0)
    for scored, task in ((left, LEFT_OF), (right, RIGHT_OF)):
        parts = scored.components
        assert (parts["detector_pass"], parts["abstained"]) == (scored.value, 0.0)
        assert parts["vlm_p"] == pytest.approx(_one(by_model, APPLE_AND_CUP, task).value, abs=1e-5)
    # Centres 40 px apart, room of 0.1 * (14 + 14), of 64 px; glyphs do not fill their squares.
    assert left.components["detector_margin"] == pytest.approx((40 - 2.8) / 64, abs=0.03)
    assert right.components["detector_margin"] == pytest.approx((-40 - 2.8) / 64, abs=0.03)
    assert left.evidence is not None
    assert {found.label for found in left.evidence.detections} == {"apple", "cup"}
    assert "detector yes" in left.evidence.reason
    above = _one(
        by_detector, _scene(("apple", "red", 24, 4), ("cup", "blue", 26, 44)), SpatialTask("apple", "above", "cup")
    )
    assert (above.value, above.components["detector_pass"]) == (1.0, 1.0)


def test_without_an_object_there_is_no_relation(by_detector: Scorer, by_both: Scorer) -> None:
    """Else a picture that leaves one out could earn what the model guesses."""
    for scorer in (by_detector, by_both):
        for task in (LEFT_OF, RIGHT_OF, SpatialTask("cup", "above", "apple")):
            scored = _one(scorer, APPLE_ALONE, task)
            assert (scored.value, scored.components["detector_pass"], scored.components["abstained"]) == (0.0, 0.0, 0.0)
            assert "detector_margin" not in scored.components


def test_several_objects_that_agree_are_no_doubt(by_detector: Scorer) -> None:
    """The nearest of them gives the margin: 32 px less 0.1 * (14 + 14), of 64 px."""
    image = _scene(("apple", "red", 4, 4), ("apple", "red", 14, 44), ("cup", "blue", 46, 26))
    left, right = (_one(by_detector, image, task) for task in (LEFT_OF, RIGHT_OF))
    assert (left.value, right.value) == (1.0, 0.0)
    assert left.components["detector_margin"] == pytest.approx((32 - 2.8) / 64, abs=0.04)


def test_agreement_is_the_lower_of_both(by_both: Scorer) -> None:
    left, right = (_one(by_both, APPLE_AND_CUP, task) for task in (LEFT_OF, RIGHT_OF))
    assert left.value == left.components["vlm_p"] < 1.0
    assert right.value == 0.0 < right.components["vlm_p"]


@pytest.mark.parametrize(
    ("image", "task", "because"),
    [
        (
            APPLE_ON_BOTH_SIDES,
            LEFT_OF,
            "the detector found 2 of 'apple' and 1 of 'cup', and it holds of some alone",
        ),
        (APPLE_AND_CUP, SpatialTask("apple", "left of", "apple"), "boxes do not tell one 'apple' from the other"),
        (APPLE_AND_CUP, SpatialTask("apple", "behind", "cup"), "boxes do not tell 'behind'"),
        (APPLE_AND_CUP, SpatialTask("teapot", "left of", "cup"), "the detector knows no 'teapot'"),
        (
            APPLE_AND_CUP,
            GenEvalTask("position", (ObjectClause("cup"), ObjectClause("apple", color="red", position=("left of", 0)))),
            "boxes tell neither colours nor several objects apart",
        ),
    ],
)
def test_a_detector_that_cannot_tell_abstains_and_is_no_zero(
    by_both: Scorer, by_detector: Scorer, image: Image, task: Task, because: str
) -> None:
    for scorer in (by_both, by_detector):
        scored = _one(scorer, image, task)
        assert scored.value == scored.components["vlm_p"] > 0.0
        assert scored.components["abstained"] == 1.0
        assert not {"detector_pass", "detector_margin"} & set(scored.components)
        assert scored.evidence is not None
        assert because in scored.evidence.reason


def test_abstaining_can_be_a_failure_and_fails_one_item_alone(judge_folder: Path) -> None:
    scorer = _build(judge_folder, value="detector", on_abstain="fail", detector=DETECTOR)
    doubtful = (APPLE_ON_BOTH_SIDES, LEFT_OF)
    first, failed, last = _score(scorer, (APPLE_AND_CUP, LEFT_OF), doubtful, (APPLE_AND_CUP, RIGHT_OF))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.reason) == ("FAILED_PRECONDITION", "JUDGE_ABSTAINED")
    assert "it holds of some alone" in failed.message
    assert [one.value for one in (first, last) if isinstance(one, Scored)] == [1.0, 0.0]


def test_a_model_that_is_unsure_abstains(judge_folder: Path, by_model: Scorer) -> None:
    p = _one(by_model, APPLE_AND_CUP, LEFT_OF).value
    narrow, wide = abs(p - 0.5) * 0.99, min(0.5, abs(p - 0.5) * 1.01 + 1e-6)
    assert _one(_build(judge_folder, unsure_within=narrow), APPLE_AND_CUP, LEFT_OF).components["abstained"] == 0.0
    unsure = _one(_build(judge_folder, unsure_within=wide), APPLE_AND_CUP, LEFT_OF)
    assert (unsure.components["abstained"], unsure.value) == (1.0, pytest.approx(p))
    failed = _score(_build(judge_folder, unsure_within=wide, on_abstain="fail"), (APPLE_AND_CUP, LEFT_OF))[0]
    assert isinstance(failed, Failed)
    assert "the model is unsure" in failed.message


@pytest.mark.parametrize("value", ["vlm", "agree"])
def test_an_answer_that_is_no_number_is_a_failure_whatever_the_detector_says(judge_folder: Path, value: str) -> None:
    """Of nan and 0 the lower one is either, by the order they come in."""
    scorer = _build(judge_folder, value=value, detector=DETECTOR)
    scorer._judge._vlm.model.get_output_embeddings().weight.fill_(float("nan"))  # type: ignore[attr-defined]
    for failed in _score(scorer, (APPLE_AND_CUP, LEFT_OF), (APPLE_AND_CUP, RIGHT_OF)):
        assert isinstance(failed, Failed)
        assert (failed.code, failed.reason) == ("INTERNAL", "ANSWER_NOT_FINITE")


def test_of_several_positions_the_least_likely_decides(by_both: Scorer) -> None:
    """A trainer's GenEval tasks are judged as they come."""
    one = GenEvalTask("position", (ObjectClause("cup"), ObjectClause("apple", position=("left of", 0))))
    alone = _one(by_both, APPLE_AND_CUP, LEFT_OF)
    assert _one(by_both, APPLE_AND_CUP, one).components == pytest.approx(dict(alone.components), abs=1e-5)
    several = GenEvalTask(
        "position",
        (
            ObjectClause("cup"),
            ObjectClause("apple", position=("left of", 0)),
            ObjectClause("apple", position=("above", 0)),
        ),
    )
    both = _one(by_both, APPLE_AND_CUP, several)
    assert both.value == 0.0
    assert both.components["1/detector_pass"] == both.components["detector_pass"] == 0.0
    assert both.components["0/detector_pass"] == 1.0
    assert both.components["0/vlm_p"] == pytest.approx(alone.components["vlm_p"], abs=1e-5)


@pytest.mark.parametrize(
    ("images", "task", "reason"),
    [
        (1, SpatialTask("apple", "next to", "cup"), "UNKNOWN_RELATION"),
        (1, SpatialTask("", "near", "cup"), "MISSING_PROMPT"),
        (1, SpatialTask("apple", "near", "cup<|im_end|>"), "PROMPT_HAS_MARKS"),
        (1, SpatialTask("apple", "near", "a <image>"), "PROMPT_HAS_MARKS"),
        (1, None, "WRONG_TASK_TYPE"),
        (1, OutcomeTask(), "WRONG_TASK_TYPE"),
        (1, GenEvalTask("counting", (ObjectClause("apple"),)), "WRONG_TASK_TYPE"),
        (1, GenEvalTask("position", (ObjectClause("apple"),)), "MISSING_POSITION"),
        (1, GenEvalTask("position", (ObjectClause("apple", position=("left of", 3)),)), "POSITION_OUT_OF_RANGE"),
        (1, GenEvalTask("position", (ObjectClause("a"), ObjectClause("b", position=("near", 0)))), "UNKNOWN_RELATION"),
        (2, LEFT_OF, "WRONG_IMAGE_COUNT"),
    ],
)
def test_a_sample_that_cannot_be_asked_about_fails_alone(
    by_model: Scorer, images: int, task: Task | None, reason: str
) -> None:
    good = Sample("good", (APPLE_AND_CUP,), "", LEFT_OF)
    first, failed, last = by_model.score([good, Sample("bad", (APPLE_AND_CUP,) * images, "", task), good])
    assert isinstance(failed, Failed)
    assert (failed.code, failed.reason) == ("INVALID_ARGUMENT", reason)
    if reason == "UNKNOWN_RELATION":
        assert "left of, right of, above, below" in failed.message
    assert all(isinstance(one, Scored) for one in (first, last))


def test_fingerprints_follow_how_a_value_is_made(
    by_model: Scorer, by_both: Scorer, by_detector: Scorer, judge_folder: Path
) -> None:
    wider = {**DETECTOR, "position_margin": 0.2}
    built = [
        by_model,
        by_both,
        by_detector,
        _build(judge_folder, unsure_within=0.1),
        _build(judge_folder, on_abstain="fail"),
        _build(judge_folder, value="agree", detector=wider),
    ]
    assert len({scorer.info.fingerprint for scorer in built}) == 6
    assert _build(judge_folder).info.fingerprint == by_model.info.fingerprint
    assert by_model.info.tasks == ("SpatialTask", "GenEvalTask")
    assert by_model.info.deterministic
