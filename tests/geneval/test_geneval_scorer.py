"""The scorers: what one examination says under each reading, and what is refused, item by item.

Detections are scripted here, so that every number can be worked out by hand; the models have tests of their own.
"""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.outcomes import Failed, Outcome, Scored
from assay.serving.scorer import Sample
from assay.tasks import GenEvalTask, ObjectClause, OutcomeTask, Task
from services.geneval.colors import ColorQuestion
from services.geneval.detectors.detector import DetectedObject
from services.geneval.examination import Examiner
from services.geneval.rules import RuleSettings
from services.geneval.scorer import GenEvalScorer


class ScriptedDetector:
    """Finds in an image as many apples as its top left pixel's red says, and as many kites as its green says."""

    vocabulary = ("apple", "computer mouse", "kite")
    fingerprint_parts = {"detector": "scripted"}  # noqa: RUF012

    def __init__(self) -> None:
        self.calls: list[int] = []

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[DetectedObject]]:
        self.calls.append(len(images))
        return [
            [
                DetectedObject(label, 0.99 - 0.001 * rank, (10.0 * rank, 0, 10.0 * rank + 8, 8))
                for label, number in (("apple", image[0, 0, 0]), ("kite", image[0, 0, 1]))
                for rank in range(number)
            ]
            for image in images
        ]


class ScriptedColors:
    """Everything is red."""

    fingerprint_parts = {"colors": "scripted"}  # noqa: RUF012

    def __init__(self) -> None:
        self.calls: list[int] = []

    def name_colors(self, questions: Sequence[ColorQuestion]) -> list[str]:
        self.calls.append(len(questions))
        return ["red"] * len(questions)


RULES = RuleSettings(max_objects=50)


def _scorer(
    reading: str = "soft", rules: RuleSettings = RULES
) -> tuple[GenEvalScorer, ScriptedDetector, ScriptedColors]:
    detector, colors = ScriptedDetector(), ScriptedColors()
    examiner = Examiner(detector, colors, rules)  # type: ignore[arg-type]
    return GenEvalScorer("geneval", reading, examiner, max_objects=rules.max_objects), detector, colors


def _sample(apples: int, kites: int, task: Task | None, number_of_images: int = 1) -> Sample:
    image = np.zeros((16, 16, 3), np.uint8)
    image[0, 0] = (apples, kites, 0)
    return Sample("id", (image,) * number_of_images, "a prompt", task)


def _task(tag: str, *include: ObjectClause, exclude: tuple[ObjectClause, ...] = ()) -> GenEvalTask:
    return GenEvalTask(tag, include, exclude)


def _scored(outcome: Outcome) -> Scored:
    assert isinstance(outcome, Scored)
    return outcome


FOUR_APPLES = _task("counting", ObjectClause("apple", 4), exclude=(ObjectClause("apple", 5),))
THREE_AND_ONE = _task("two_object", ObjectClause("apple", 3), ObjectClause("kite", 1))


@pytest.mark.parametrize(
    ("reading", "values"),
    [
        ("soft", [1, 0.75, 0]),
        ("strict", [1, 0, 0]),
        ("official", [1, 0, 0]),
        ("compat", [1, 0.75, -1.5]),
        ("counting", [1, 0.5, 1 / 11]),
    ],
)
def test_value_under_each_reading(reading: str, values: list[float]) -> None:
    scorer, _, _ = _scorer(reading)
    outcomes = scorer.score([_sample(apples, 0, FOUR_APPLES) for apples in (4, 3, 14)])
    assert [_scored(outcome).value for outcome in outcomes] == pytest.approx(values)
    lowest, highest = scorer.info.value_range
    assert all(lowest <= _scored(outcome).value <= highest for outcome in outcomes)


def test_components_and_evidence() -> None:
    scorer, _, _ = _scorer()
    outcome = _scored(scorer.score([_sample(4, 1, THREE_AND_ONE)])[0])
    assert outcome.components == pytest.approx(
        {
            "correct": 1,
            "strict_correct": 0,
            "soft": (2 / 3 + 1) / 2,
            "counting": 0.75,
            "found/apple": 4,
            "found/kite": 1,
        }
    )
    assert outcome.evidence is not None
    assert outcome.evidence.reason == "wanted 3 apples, found 4"
    assert [(item.label, item.box[0]) for item in outcome.evidence.detections] == [
        ("apple", 0),
        ("apple", 10),
        ("apple", 20),
        ("apple", 30),
        ("kite", 0),
    ]


def test_an_image_that_several_tasks_ask_about_is_looked_at_once() -> None:
    scorer, detector, _ = _scorer()
    asked = [
        (4, 0, FOUR_APPLES),
        (3, 1, FOUR_APPLES),
        (4, 0, THREE_AND_ONE),
        (3, 1, THREE_AND_ONE),
        (4, 0, FOUR_APPLES),
    ]
    together = [_scored(outcome) for outcome in scorer.score([_sample(*one) for one in asked])]
    assert detector.calls == [2]
    assert together == [_scored(_scorer()[0].score([_sample(*one)])[0]) for one in asked]
    assert len({outcome.value for outcome in together}) > 2
    wide, high = (Sample("id", (np.zeros(shape, np.uint8),), "", FOUR_APPLES) for shape in ((8, 16, 3), (16, 8, 3)))
    scorer.score([wide, high])  # the same bytes, and not the same image
    assert detector.calls == [2, 2]


def test_counting_is_the_mean_over_all_wanted_classes_whatever_the_tag() -> None:
    scorer, _, _ = _scorer("counting")
    task = _task("color_attr", ObjectClause("apple", 1, "red"), ObjectClause("kite", 1, "blue"))
    assert _scored(scorer.score([_sample(2, 1, task)])[0]).value == 0.75


def test_colors_are_asked_for_all_images_at_once_and_only_where_they_decide() -> None:
    scorer, detector, colors = _scorer()
    red = _task("colors", ObjectClause("apple", 2, "red"))
    outcomes = scorer.score([_sample(2, 1, red), _sample(1, 0, red), _sample(5, 0, red), _sample(3, 0, FOUR_APPLES)])
    assert detector.calls == [4]
    assert colors.calls == [4]
    named = [[item.color for item in _scored(outcome).evidence.detections] for outcome in outcomes]  # type: ignore[union-attr]
    assert named == [["red", "red", None], [None], ["red", "red", None, None, None], [None] * 3]
    assert [_scored(outcome).components["correct"] for outcome in outcomes] == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("task", "reason", "said"),
    [
        (None, "MISSING_TASK", "task is None; allowed: a GenEvalTask"),
        (OutcomeTask(), "WRONG_TASK_TYPE", "task is 'OutcomeTask'; allowed: GenEvalTask"),
        (_task("counts", ObjectClause("apple")), "UNKNOWN_TAG", "tag is 'counts'; allowed: single_object, "),
        (_task("counting"), "EMPTY_INCLUDE", "include is []"),
        (_task("counting", ObjectClause("appel")), "UNKNOWN_CLASS", "include[0].class is 'appel'; allowed: apple, "),
        (_task("counting", ObjectClause("appel")), "UNKNOWN_CLASS", "(did you mean apple?)"),
        (_task("counting", ObjectClause("mouse")), "UNKNOWN_CLASS", "did you mean computer mouse?"),
        (
            _task("counting", ObjectClause("apple"), exclude=(ObjectClause("zebra"),)),
            "UNKNOWN_CLASS",
            "exclude[0].class is 'zebra'",
        ),
        (_task("counting", ObjectClause("apple", 0)), "INVALID_COUNT", "include[0].count is 0; allowed: 1 or more"),
        (_task("counting", ObjectClause("apple", -3)), "INVALID_COUNT", "include[0].count is -3"),
        (_task("counting", ObjectClause("apple", 50)), "INVALID_COUNT", "count is 50; allowed: 1 to 49"),
        (
            _task("colors", ObjectClause("apple", 1, "mauve")),
            "UNKNOWN_COLOR",
            "include[0].color is 'mauve'; allowed: red",
        ),
        (
            _task("position", ObjectClause("apple"), ObjectClause("kite", 1, None, ("near", 0))),
            "UNKNOWN_RELATION",
            "include[1].position[0] is 'near'; allowed: left of, right of, above, below",
        ),
        (
            _task("position", ObjectClause("apple"), ObjectClause("kite", 1, None, ("above", 1))),
            "POSITION_OUT_OF_RANGE",
            "include[1].position[1] is 1; allowed: the index of an earlier include clause, 0 to 0",
        ),
        (
            _task("position", ObjectClause("apple"), ObjectClause("kite", 1, None, ("above", -1))),
            "POSITION_OUT_OF_RANGE",
            "include[1].position[1] is -1",
        ),
        (
            _task("counting", ObjectClause("apple"), exclude=(ObjectClause("kite", 1, "red"),)),
            "INVALID_EXCLUDE",
            "exclude[0].color is 'red'",
        ),
    ],
)
def test_bad_task_fails_alone_with_field_value_and_what_is_allowed(task: Task | None, reason: str, said: str) -> None:
    scorer, detector, _ = _scorer()
    good, bad, also_good = scorer.score([_sample(4, 0, FOUR_APPLES), _sample(1, 0, task), _sample(3, 0, FOUR_APPLES)])
    assert isinstance(bad, Failed)
    assert (bad.code, bad.reason) == ("INVALID_ARGUMENT", reason)
    assert said in bad.message
    assert [_scored(good).value, _scored(also_good).value] == [1, 0.75]
    assert detector.calls == [2]


@pytest.mark.parametrize("number_of_images", [0, 2])
def test_exactly_one_image_is_judged(number_of_images: int) -> None:
    outcome = _scorer()[0].score([_sample(4, 0, FOUR_APPLES, number_of_images)])[0]
    assert isinstance(outcome, Failed)
    assert outcome.reason == "WRONG_IMAGE_COUNT"
    assert f"{number_of_images} images" in outcome.message


def test_without_a_color_classifier_colored_tasks_are_refused_and_others_served() -> None:
    scorer = GenEvalScorer("geneval", "soft", Examiner(ScriptedDetector(), None, RULES), max_objects=50)
    colored = _task("colors", ObjectClause("apple", 1, "red"))
    refused, served = scorer.score([_sample(1, 0, colored), _sample(4, 0, FOUR_APPLES)])
    assert isinstance(refused, Failed)
    assert refused.reason == "COLORS_NOT_SERVED"
    assert _scored(served).value == 1


def test_batches_of_bad_items_alone_and_empty_batches_run_no_model() -> None:
    scorer, detector, colors = _scorer()
    assert isinstance(scorer.score([_sample(1, 0, None)])[0], Failed)
    assert scorer.score([]) == []
    assert detector.calls == colors.calls == []


def test_fingerprint_follows_what_decides_the_scores() -> None:
    same, again = _scorer()[0].info, _scorer()[0].info
    assert same.fingerprint == again.fingerprint
    others = [_scorer("strict")[0], _scorer(rules=RuleSettings(threshold=0.31, max_objects=50))[0]]
    assert len({same.fingerprint, *(other.info.fingerprint for other in others)}) == 3


def test_warm_up_sample_can_be_scored() -> None:
    scorer, detector, _ = _scorer()
    assert isinstance(scorer.score([scorer.warm_up_sample()])[0], Scored)
    assert detector.calls == [1]
