"""Suppression of detections that overlap a surer one of the same class. Off in GenEval's official settings."""

from collections.abc import Sequence

from services.geneval.detectors.detector import DetectedObject

Box = tuple[float, float, float, float]


def without_overlaps(objects: Sequence[DetectedObject], max_overlap: float) -> list[DetectedObject]:
    """Drop each object whose box overlaps a surer kept one of its class by more than `max_overlap`.

    Args:
        objects: the surest first.
        max_overlap: intersection over union; 1.0 keeps everything.
    """
    if max_overlap >= 1:
        return list(objects)
    kept: list[DetectedObject] = []
    for candidate in objects:
        rivals = (rival for rival in kept if rival.label == candidate.label)
        if all(intersection_over_union(candidate.box, rival.box) <= max_overlap for rival in rivals):
            kept.append(candidate)
    return kept


def intersection_over_union(box: Box, other: Box) -> float:
    """Shared area over joint area of two boxes (x1, y1, x2, y2); 0 where neither has an area."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    union = _area(box) + _area(other) - intersection
    return intersection / union if union > 0 else 0.0


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
