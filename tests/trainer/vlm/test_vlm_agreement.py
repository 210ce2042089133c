"""Agreement and the area under the curve, by hand."""

import pytest

from trainer.vlm.agreement import agreement, area_under_curve


def test_half_is_a_yes() -> None:
    assert agreement([0.5, 0.49, 0.9, 0.1], [True, False, False, True]) == 0.5


def test_area_is_the_share_of_pairs_in_the_right_order() -> None:
    # yes at 3, 1; no at 2, 1: 3 > 2, 3 > 1, 1 < 2, 1 = 1
    assert area_under_curve([3, 2, 1, 1], [True, False, True, False]) == pytest.approx(2.5 / 4)
    assert area_under_curve([1, 2], [False, True]) == 1
    assert area_under_curve([5, 5, 5], [False, True, True]) == 0.5
    assert area_under_curve([1, 2], [True, True]) is None
