"""Relations between boxes, against GenEval's rule and by hand."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.geneval.rules import Box
from services.spatial.relations import PLANAR_RELATIONS, RELATIONS, beyond_margin, holds

BOX, OTHER = (10.0, 20.0, 20.0, 30.0), (40.0, 22.0, 60.0, 34.0)


def test_the_allowed_relations() -> None:
    assert RELATIONS == ("left of", "right of", "above", "below", "in front of", "behind", "inside", "near")


@pytest.mark.parametrize(
    ("relation", "expected", "true"),
    [
        # centres (15, 25) and (50, 28); room of 0.1 * (10 + 20) = 3 across, 0.1 * (10 + 12) = 2.2 down
        ("left of", 35 - 3, True),
        ("right of", -35 - 3, False),
        ("above", 3 - 2.2, False),  # beyond the margin, but a small part of the whole way
        ("below", -3 - 2.2, False),
    ],
)
def test_distance_beyond_the_margin_by_hand(relation: str, expected: float, true: bool) -> None:
    assert beyond_margin(relation, BOX, OTHER, 0.1) == pytest.approx(expected)
    assert holds(relation, BOX, OTHER, 0.1) is true


_side = st.floats(0, 100).map(lambda number: round(number, 3))
_boxes = st.tuples(_side, _side, st.floats(1, 50), st.floats(1, 50)).map(
    lambda one: (one[0], one[1], one[0] + one[2], one[1] + one[3])
)


@given(_boxes, _boxes, st.sampled_from(PLANAR_RELATIONS), st.floats(0, 0.5))
def test_where_the_rule_holds_the_margin_is_passed_and_never_both_ways(
    box: Box, other: Box, relation: str, margin: float
) -> None:
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[relation]
    distance = beyond_margin(relation, box, other, margin)
    assert distance == pytest.approx(beyond_margin(opposite, other, box, margin))
    assert distance + beyond_margin(opposite, box, other, margin) <= 1e-9
    assume(holds(relation, box, other, margin))
    assert distance > 0
    assert not holds(opposite, box, other, margin)
