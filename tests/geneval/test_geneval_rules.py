"""The rules on hand-computed cases, and the properties that a reward must have whatever was detected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.outcomes import Detection
from assay.tasks import GenEvalTask
from services.geneval.rules import RuleSettings, Verdict, counting_score, judge, keep, relative_position

OFFICIAL = RuleSettings()


def _objects(label: str, number: int, **fields: object) -> list[Detection]:
    return [Detection(label, 0.95, (10.0 * i, 0, 10.0 * i + 8, 8), **fields) for i in range(number)]


def _task(tag: str, *include: dict, exclude: tuple[dict, ...] = ()) -> GenEvalTask:
    return GenEvalTask.from_metadata({"tag": tag, "include": include, "exclude": exclude})


def _judge(task: GenEvalTask, detections: list[Detection], *, compat: bool = False) -> Verdict:
    return judge(task, keep(detections, task.tag, OFFICIAL), OFFICIAL, compat=compat)


@pytest.mark.parametrize(
    ("wanted", "found", "clean", "compat"),
    [
        (3, 3, 1, 1),
        (3, 2, 2 / 3, 2 / 3),
        (3, 7, 0, -1 / 3),
        (1, 2, 0, 0),
        (1, 16, 0, -14),
        (1, 40, 0, -14),
        (2, 0, 0, 0),
    ],
)
def test_soft_score_of_a_count(wanted: int, found: int, clean: float, compat: float) -> None:
    task = _task("counting", {"class": "apple", "count": wanted})
    assert _judge(task, _objects("apple", found)).score == pytest.approx(clean)
    assert _judge(task, _objects("apple", found), compat=True).score == pytest.approx(compat)


def test_soft_score_of_two_objects_one_missing() -> None:
    task = _task("two_object", {"class": "apple"}, {"class": "kite"})
    assert _judge(task, _objects("apple", 1)).score == 0.5


@pytest.mark.parametrize(("color", "found", "score"), [("red", 1, 1), ("blue", 1, 0.5), ("red", 0, 0)])
def test_soft_score_of_a_color(color: str, found: int, score: float) -> None:
    task = _task("colors", {"class": "apple", "count": 1, "color": "red"})
    verdict = _judge(task, _objects("apple", found, color=color))
    assert verdict.score == score
    assert verdict.correct is verdict.strict_correct is (score == 1)


def test_soft_score_of_two_colors_one_wrong() -> None:
    task = _task("color_attr", {"class": "apple", "color": "red"}, {"class": "kite", "color": "blue"})
    detections = _objects("apple", 1, color="red") + _objects("kite", 1, color="red")
    assert _judge(task, detections).score == 0.75


LEFT_OF = _task("position", {"class": "apple"}, {"class": "kite", "position": ["left of", 0]})
APPLE, LEFT_KITE, RIGHT_KITE = (
    Detection("apple", 0.9, (40, 20, 50, 30)),
    Detection("kite", 0.9, (0, 20, 10, 30)),
    Detection("kite", 0.9, (80, 20, 90, 30)),
)


@pytest.mark.parametrize(
    ("detections", "clean", "compat"),
    [
        ([APPLE, LEFT_KITE], 1, 1),
        ([APPLE, RIGHT_KITE], 2 / 3, 0.75),
        ([LEFT_KITE], 1 / 3, 1 / 3),
        ([APPLE], 1 / 3, 1 / 3),
    ],
)
def test_soft_score_of_a_position(detections: list[Detection], clean: float, compat: float) -> None:
    assert _judge(LEFT_OF, detections).score == pytest.approx(clean)
    assert _judge(LEFT_OF, detections, compat=True).score == pytest.approx(compat)


def test_official_rule_forgives_extra_objects_but_strict_does_not() -> None:
    task = _task("single_object", {"class": "apple", "count": 1})
    verdict = _judge(task, _objects("apple", 3))
    assert verdict.correct
    assert not verdict.strict_correct


def test_official_rule_looks_at_the_surest_objects_alone() -> None:
    task = _task("colors", {"class": "apple", "count": 1, "color": "red"})
    sure = Detection("apple", 0.99, (0, 0, 8, 8), "red")
    unsure = Detection("apple", 0.5, (20, 0, 28, 8), "blue")
    assert _judge(task, [unsure, sure]).correct


def test_exclusion_of_the_same_class_makes_extra_objects_wrong() -> None:
    task = _task("counting", {"class": "apple", "count": 2}, exclude=({"class": "apple", "count": 3},))
    assert _judge(task, _objects("apple", 2)).correct
    assert not _judge(task, _objects("apple", 3)).correct


@pytest.mark.parametrize(("kites", "score"), [(0, 1), (1, 1), (2, 0.75), (3, 0.5), (9, 0.5)])
def test_exclusion_of_another_class_lowers_the_soft_score_step_by_step(kites: int, score: float) -> None:
    task = _task("single_object", {"class": "apple"}, exclude=({"class": "kite", "count": 2},))
    verdict = _judge(task, _objects("apple", 1) + _objects("kite", kites))
    assert verdict.score == score
    assert verdict.correct is verdict.strict_correct is (kites < 2)
    assert _judge(task, _objects("apple", 1) + _objects("kite", kites), compat=True).score == 1


def test_thresholds_are_strict_and_counting_has_its_own() -> None:
    detections = [Detection("apple", confidence, (0, 0, 8, 8)) for confidence in (0.3, 0.31, 0.9, 0.91)]
    assert len(keep(detections, "colors", OFFICIAL)["apple"]) == 3
    assert len(keep(detections, "counting", OFFICIAL)["apple"]) == 1
    assert keep(detections[:1], "colors", OFFICIAL) == {}


def test_more_objects_than_the_cap_can_be_counted_when_the_cap_is_raised() -> None:
    task = _task("counting", {"class": "apple", "count": 20})
    detections = _objects("apple", 20)
    settings = RuleSettings(max_objects=50)
    assert not _judge(task, detections).strict_correct
    assert judge(task, keep(detections, task.tag, settings), settings).strict_correct


@pytest.mark.parametrize(
    ("box", "relations"),
    [
        ((0, 50, 10, 60), {"left of"}),
        ((100, 50, 110, 60), {"right of"}),
        ((50, 0, 60, 10), {"above"}),
        ((50, 100, 60, 110), {"below"}),
        ((0, 0, 10, 10), {"left of", "above"}),
        ((51, 51, 61, 61), set()),
        ((50, 50, 60, 60), set()),
    ],
)
def test_relative_position(box: tuple[float, float, float, float], relations: set[str]) -> None:
    assert relative_position(box, (50, 50, 60, 60), 0.1) == relations


def test_relation_is_judged_on_the_shortened_offset() -> None:
    # Centres differ by (10, 0), sizes add up to 40: 10 - 4 = 6 is left, more than half; with margin 0.2 only 2 are.
    assert relative_position((10, 0, 30, 20), (0, 0, 20, 20), 0.1) == {"right of"}
    assert relative_position((10, 0, 30, 20), (0, 0, 20, 20), 0.2) == set()


@pytest.mark.parametrize(
    ("task", "detections", "reason"),
    [
        (_task("counting", {"class": "apple", "count": 3}), _objects("apple", 4), "wanted 3 apples, found 4"),
        (_task("counting", {"class": "apple", "count": 3}), _objects("apple", 3), "found 3 apples, as wanted"),
        (LEFT_OF, [APPLE, RIGHT_KITE], "kite is not left of apple"),
        (LEFT_OF, [LEFT_KITE], "wanted 1 apple, found 0; kite cannot be left of apple: apple itself does not match"),
        (
            _task("colors", {"class": "bus", "count": 2, "color": "red"}),
            _objects("bus", 2, color="blue"),
            "wanted 2 red buses, found 0 of that colour (colours: blue, blue)",
        ),
    ],
)
def test_reason_in_words(task: GenEvalTask, detections: list[Detection], reason: str) -> None:
    assert _judge(task, detections).reason == reason


counts = st.integers(min_value=0, max_value=10_000)
wanted_counts = st.integers(min_value=1, max_value=10_000)


@given(found=counts, wanted=wanted_counts)
def test_counting_score_is_one_for_the_exact_count_alone(found: int, wanted: int) -> None:
    score = counting_score(found, wanted)
    assert 0 < score <= 1
    assert (score == 1) is (found == wanted)


@given(wanted=wanted_counts, found=counts, other=counts)
def test_counting_score_falls_with_the_error_and_never_stops_falling(wanted: int, found: int, other: int) -> None:
    error, other_error = abs(found - wanted), abs(other - wanted)
    assert (counting_score(found, wanted) > counting_score(other, wanted)) is (error < other_error)


colors = st.sampled_from(["red", "blue"])
boxes = st.tuples(*[st.integers(0, 64)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
detection_lists = st.lists(
    st.builds(Detection, st.sampled_from(["apple", "kite"]), st.floats(0, 1), boxes, colors), max_size=30
)
clause_lists = st.lists(
    st.fixed_dictionaries(
        {"class": st.sampled_from(["apple", "kite"]), "count": st.integers(1, 5)}, optional={"color": colors}
    ),
    min_size=1,
    max_size=3,
)
exclusions = st.lists(
    st.fixed_dictionaries({"class": st.sampled_from(["apple", "kite", "cup"]), "count": st.integers(1, 5)}), max_size=2
)
tags = st.sampled_from(["counting", "colors"])


@given(tag=tags, include=clause_lists, exclude=exclusions, detections=detection_lists, placed=st.booleans())
def test_readings_agree_with_each_other(
    tag: str, include: list[dict], exclude: list[dict], detections: list[Detection], placed: bool
) -> None:
    if placed and len(include) > 1:
        include = [*include[:-1], {**include[-1], "position": ["above", 0]}]
    verdict = _judge(_task(tag, *include, exclude=tuple(exclude)), detections)
    assert 0 <= verdict.score <= 1
    assert 0 < verdict.counting <= 1
    assert verdict.correct or not verdict.strict_correct
    excluded = any(verdict.found[clause["class"]] >= clause["count"] for clause in exclude)
    assert verdict.strict_correct is (verdict.score == 1 and not excluded)
    if verdict.strict_correct:
        assert verdict.counting == 1
    assert verdict.reason


@given(detections=detection_lists, include=clause_lists, shuffle=st.randoms())
def test_order_of_detections_of_different_confidence_does_not_matter(
    detections: list[Detection], include: list[dict], shuffle: object
) -> None:
    distinct = list({item.confidence: item for item in detections}.values())
    task = _task("colors", *include)
    before = _judge(task, distinct)
    shuffle.shuffle(distinct)  # type: ignore[attr-defined]
    assert _judge(task, distinct) == before
