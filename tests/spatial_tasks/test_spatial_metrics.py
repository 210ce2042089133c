"""Metrics by hand: each of the reference's traps, reproduced in `compat` and avoided otherwise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from x3_data import box_mask

from pipelines.spatial_tasks.evaluation.judgement import Judgement, Target, judge, lies_on
from pipelines.spatial_tasks.evaluation.metrics import named_metrics, robust_metrics
from pipelines.spatial_tasks.evaluation.reference import judge_as_reference, metrics_as_reference
from pipelines.spatial_tasks.masks import Mask
from pipelines.spatial_tasks.points import Answer, Point, read_answer

MASK = box_mask((4, 2, 9, 7))  # of 20 x 12 pixels
VISIBLE = Target(Point(0.325, 0.375), MASK)
MISSING = Target(None, box_mask(None))
REFUSES, MUMBLES = Answer(True, None), Answer(False, None)


def at(x: float, y: float) -> Answer:
    return Answer(False, Point(x, y))


def test_a_point_at_a_visible_target() -> None:
    # 0.1 beside it: 2 pixels of 20; 0.2 below: 2.4 pixels of 12.
    found = judge(at(0.425, 0.575), VISIBLE)
    assert found == Judgement(True, True, False, hit=True, l2=pytest.approx(math.hypot(0.1, 0.2)), l2_px=found.l2_px)
    assert found.l2_px == pytest.approx(math.hypot(2, 2.4))
    assert found.right
    assert not judge(at(0.46, 0.375), VISIBLE).right


def test_what_is_neither_a_hit_nor_a_distance() -> None:
    assert judge(REFUSES, VISIBLE) == Judgement(True, True, True)
    assert judge(MUMBLES, VISIBLE) == Judgement(True, False, False)
    assert judge(at(0.3, 0.3), MISSING) == Judgement(False, True, False)
    assert judge(REFUSES, MISSING) == Judgement(False, True, True)
    right = [judge(answer, target).right for answer in (REFUSES, MUMBLES) for target in (VISIBLE, MISSING)]
    assert right == [False, True, False, False]


def test_pixels_are_half_open_and_the_last_one_holds_the_border() -> None:
    left_top, right_bottom = box_mask((0, 0, 1, 1)), box_mask((19, 11, 20, 12))
    assert lies_on(Point(0.0, 0.0), left_top)
    assert lies_on(Point(0.0499, 0.083), left_top)
    assert not lies_on(Point(0.05, 0.0), left_top)  # 1 of 20: the next pixel
    assert lies_on(Point(1.0, 1.0), right_bottom)
    assert lies_on(Point(0.95, 0.9167), right_bottom)
    assert not any(lies_on(Point(x, y), ~MASK | MASK) for x, y in ((-0.001, 0.5), (0.5, 1.001), (1.2, 1.2)))
    # 4 to 8: from 0.2 up to, not including, 0.45.
    row = [lies_on(Point(x, 0.4), MASK) for x in (0.1999, 0.2, 0.4499, 0.45)]
    assert row == [False, True, True, False]


def test_the_reference_rounds_pixels_and_takes_what_is_outside_to_the_border() -> None:
    """Defect h: with 19 in the place of 20, 0.45 is pixel round(8.55) = 9, and 0.44 pixel round(8.36) = 8."""

    def hit(x: float, y: float, mask: Mask = MASK) -> bool | None:
        return judge_as_reference(f"[({x}, {y})]", "[(0.325, 0.375)]", mask, is_concatenated=False).hit

    assert [hit(x, 0.4) for x in (0.18, 0.19, 0.44, 0.45)] == [False, True, True, False]
    assert hit(1.7, 3.0, box_mask((19, 11, 20, 12)))
    assert hit(0.5, 0.0, box_mask((10, 0, 11, 1)))  # round(9.5) = 10, to the even
    assert not lies_on(Point(0.49, 0.0), box_mask((10, 0, 11, 1)))


def test_the_reference_and_concatenated_pairs() -> None:
    """The left half is a miss; the right one is stretched to the query; distances stay as the numbers stand."""

    def judged(text: str, wanted: str = "[(0.325, 0.375)]") -> tuple[bool | None, float | None]:
        found = judge_as_reference(text, wanted, MASK, is_concatenated=True)
        return found.hit, found.l2

    assert judged("[(0.325, 0.375)]") == (False, 0.0)  # defect a: nearest of all, and a miss
    hit, l2 = judged("[(0.663, 0.375)]")
    assert (hit, l2) == (True, pytest.approx(0.338))
    assert judged("[(0.499, 0.4)]")[0] is False
    assert judge_as_reference("[(0.5, 0.0)]", "[(0, 0)]", box_mask((0, 0, 1, 1)), is_concatenated=True).hit
    assert judge_as_reference("[(1.0, 1.0)]", "[(0, 0)]", box_mask((19, 11, 20, 12)), is_concatenated=True).hit
    assert judged("NOT_VISIBLE") == judged("nowhere") == (None, None)
    assert judged("[(0.663, 0.375)]", "NOT_VISIBLE") == (None, None)


# Seven questions: five visible targets (hit, far hit, miss, refused, mumbled), two missing ones (refused, pointed at).
ANSWERS = [
    (at(0.325, 0.375), VISIBLE),
    (at(0.425, 0.375), VISIBLE),
    (at(0.725, 0.375), VISIBLE),
    (REFUSES, VISIBLE),
    (MUMBLES, VISIBLE),
    (REFUSES, MISSING),
    (at(0.5, 0.5), MISSING),
]
TEXTS = ["[(0.325, 0.375)]", "[(0.425, 0.375)]", "[(0.725, 0.375)]", "It is NOT_VISIBLE", "(0.325, 0.375)"]
TEXTS += ["not_visible", "[(0.5, 0.5)]"]


def test_named_numbers_by_hand() -> None:
    found = named_metrics([judge(*one) for one in ANSWERS])
    std = math.sqrt(((0 - 1 / 6) ** 2 + (0.1 - 1 / 6) ** 2 + (0.4 - 1 / 6) ** 2) / 3)
    assert found == {
        "total": 7,
        "gt_not_visible": 2,
        "visible_gt": 5,
        "not_visible_accuracy": 0.5,
        "mean_l2_error": pytest.approx(0.5 / 3),
        "std_l2_error": pytest.approx(std),
        "median_l2_error": pytest.approx(0.1),
        "success_002": 0.2,
        "success_005": 0.2,
        "success_010": 0.4,
        "hit_at_mask": 0.4,
        "hit_at_mask_count": 2,
        "hit_at_mask_total": 5,
    }


def test_the_references_numbers_by_hand() -> None:
    """Defect b: two hits of three points, where five targets were there to be hit."""
    wanted = ["[(0.325, 0.375)]"] * 5 + ["NOT_VISIBLE"] * 2
    judged = [
        judge_as_reference(text, one, MASK, is_concatenated=False) for text, one in zip(TEXTS, wanted, strict=True)
    ]
    found = metrics_as_reference(judged)
    distances = np.array([one.l2 for one in judged[:3]], np.float32)
    assert found["hit_at_mask"] == pytest.approx(2 / 3)
    assert (found["hit_at_mask_count"], found["hit_at_mask_total"]) == (2, 3)
    assert found["mean_l2_error"] == float(distances.mean())
    assert found["std_l2_error"] == float(distances.std())
    assert found["median_l2_error"] == float(np.float32(judged[1].l2 or 0))
    assert (found["success_002"], found["success_005"]) == (0.2, 0.2)
    assert (found["total"], found["gt_not_visible"], found["visible_gt"]) == (7, 2, 5)
    assert found["not_visible_accuracy"] == 0.5
    assert list(found) == list(named_metrics([]))


def test_robust_numbers_by_hand() -> None:
    found = robust_metrics([judge(*one) for one in ANSWERS])
    values = {name: (one["value"], one["n"]) for name, one in found.items()}
    assert values["coverage"] == (6 / 7, 7)
    assert values["accuracy"] == (3 / 7, 7)
    assert values["hit_rate"] == (2 / 5, 5)
    assert values["visible_precision"] == (3 / 4, 4)
    assert values["visible_recall"] == (3 / 5, 5)
    assert values["visible_f1"] == (6 / 9, 9)
    assert values["not_visible_recall"] == (1 / 2, 2)
    assert values["not_visible_f1"] == (2 / 4, 4)
    assert values["balanced_accuracy"] == (pytest.approx(0.55), 7)
    assert values["l2"] == (pytest.approx(0.5 / 3), 3)
    assert values["l2_px"] == (pytest.approx((0 + 2 + 8) / 3), 3)
    assert values["l2_px_median"] == (pytest.approx(2), 3)


def test_refusing_everything_looks_good_in_none_but_the_protocols_own_number() -> None:
    """Defects b and j: all refused is 1.0 of not_visible_accuracy."""
    judged = [judge(REFUSES, target) for _, target in ANSWERS]
    assert named_metrics(judged)["not_visible_accuracy"] == 1.0
    robust = robust_metrics(judged)
    assert robust["hit_rate"]["value"] == robust["visible_f1"]["value"] == robust["visible_recall"]["value"] == 0
    assert robust["balanced_accuracy"]["value"] == 0.5
    assert robust["visible_precision"] == {"value": None, "n": 0}
    # One lucky point among refusals: the reference calls that all.
    lucky = ["[(0.325, 0.375)]"] + ["NOT_VISIBLE"] * 4
    reference = [judge_as_reference(text, "[(0.325, 0.375)]", MASK, is_concatenated=False) for text in lucky]
    assert metrics_as_reference(reference)["hit_at_mask"] == 1.0


def test_nothing_at_all_and_nothing_visible() -> None:
    for found in (named_metrics([]), metrics_as_reference([])):
        assert found["total"] == found["hit_at_mask"] == found["success_010"] == found["not_visible_accuracy"] == 0
        assert found["mean_l2_error"] is found["std_l2_error"] is found["median_l2_error"] is None
    assert all(one == {"value": None, "n": 0} for one in robust_metrics([]).values())
    missing = robust_metrics([judge(REFUSES, MISSING)])
    assert missing["balanced_accuracy"] == {"value": None, "n": 0}
    assert missing["not_visible_recall"] == {"value": 1.0, "n": 1}


shares = st.floats(0, 1).map(lambda value: round(value, 3))
answers = st.one_of(st.tuples(shares, shares).map(lambda pair: at(*pair)), st.just(REFUSES), st.just(MUMBLES))


@given(st.lists(st.tuples(answers, st.sampled_from([VISIBLE, MISSING])), min_size=1, max_size=30))
def test_both_ways_agree_where_they_mean_the_same(pairs: list[tuple[Answer, Target]]) -> None:
    """Counts, accuracy of refusals, distances and successes; hits differ by at most the pixel rule."""

    def text(answer: Answer) -> str:
        return "NOT_VISIBLE" if answer.says_not_visible else f"[{tuple(answer.point)}]" if answer.point else "hm"

    wanted = {id(VISIBLE): "[(0.325, 0.375)]", id(MISSING): "NOT_VISIBLE"}
    ours = named_metrics([judge(answer, target) for answer, target in pairs])
    theirs = metrics_as_reference(
        [
            judge_as_reference(text(a), wanted[id(t)], t.mask, is_concatenated=False)
            for a, t in pairs
            if "e" not in text(a)
        ]
    )
    if theirs["total"] == ours["total"]:
        for name in ("gt_not_visible", "visible_gt", "not_visible_accuracy", "success_002", "success_005"):
            assert ours[name] == theirs[name], name
        assert (ours["mean_l2_error"] is None) == (theirs["mean_l2_error"] is None)
        if ours["mean_l2_error"] is not None:
            assert ours["mean_l2_error"] == pytest.approx(theirs["mean_l2_error"], abs=1e-5)
        assert theirs["hit_at_mask_total"] <= ours["hit_at_mask_total"]
    robust = robust_metrics([judge(answer, target) for answer, target in pairs])
    assert robust["hit_rate"]["n"] == ours["visible_gt"]
    assert all(one["value"] is None or 0 <= one["value"] <= 1 for name, one in robust.items() if "l2" not in name)
    assert read_answer(text(REFUSES)).says_not_visible
