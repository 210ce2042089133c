"""The relations that can be asked about, and how far boxes stand in those that a picture's plane decides. Pure."""

from services.geneval.rules import Box, relative_position
from services.geneval.vocabulary import RELATIONS as PLANAR_RELATIONS

RELATIONS = (*PLANAR_RELATIONS, "in front of", "behind", "inside", "near")
#: Along which axis, and towards which side of it.
_DIRECTIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}


def holds(relation: str, box: Box, other: Box, margin: float) -> bool:
    """Whether `box` stands in the planar relation to `other`, by GenEval's rule (`services.geneval.rules`)."""
    return relation in relative_position(box, other, margin)


def beyond_margin(relation: str, box: Box, other: Box, margin: float) -> float:
    """Pixels by which the centre of `box` lies farther in the direction of the relation than the margin asks for.

    The margin is that share of both sizes along the axis. Where GenEval's rule holds this is above 0; the rule also
    asks that it be more than half of the whole way between the centres.
    """
    axis, side = _DIRECTIONS[relation]
    centre, other_centre = ((one[axis] + one[axis + 2]) / 2 for one in (box, other))
    room = margin * sum(one[axis + 2] - one[axis] for one in (box, other))
    return side * (centre - other_centre) - room
