"""From raw outputs to objects: scores, boxes and masks on outputs made by hand."""

import pytest
import torch
from torch import Tensor

from services.geneval.detectors.detector import DetectedObject
from services.geneval.detectors.model_outputs import Frame, boxes_of_masks, objects_from_boxes, objects_from_masks
from services.geneval.detectors.overlap import intersection_over_union, without_overlaps

SQUARE = Frame(image=(8, 8), model_input=(8, 8), content=(8, 8))


def _rectangle(size: tuple[int, int], box: tuple[int, int, int, int], inside: float = 4.0) -> Tensor:
    mask = torch.full(size, -4.0)
    mask[box[1] : box[3], box[0] : box[2]] = inside
    return mask


def _class_logits(*probabilities: tuple[float, ...]) -> Tensor:
    return torch.tensor(probabilities).clamp(min=1e-9).log()


def test_confidence_is_class_probability_times_mean_mask_probability() -> None:
    mask = _rectangle((8, 8), (1, 2, 4, 7))
    mask[2, 1] = 1.0
    found = objects_from_masks(_class_logits((0.1, 0.7, 0.2)), mask[None], SQUARE, top_k=10, min_confidence=0.3)
    inside = (14 * torch.tensor(4.0).sigmoid() + torch.tensor(1.0).sigmoid()) / 15
    assert found.labels.tolist() == [1]
    assert found.confidences.tolist() == pytest.approx([0.7 * inside.item()])
    assert found.boxes.tolist() == [[1, 2, 4, 7]]
    assert found.masks is not None
    assert found.masks.sum().item() == 15


def test_objects_come_surest_first_even_where_the_mask_score_turns_the_order() -> None:
    masks = torch.stack([_rectangle((8, 8), (0, 0, 4, 4), inside=0.1), _rectangle((8, 8), (4, 4, 8, 8), inside=6.0)])
    logits = _class_logits((0.9, 0.0, 0.1), (0.0, 0.8, 0.2))
    found = objects_from_masks(logits, masks, SQUARE, top_k=10, min_confidence=0.3)
    assert found.labels.tolist() == [1, 0]
    assert found.boxes.tolist() == [[4, 4, 8, 8], [0, 0, 4, 4]]


def test_empty_masks_are_dropped() -> None:
    masks = torch.stack([torch.full((8, 8), -1.0), _rectangle((8, 8), (2, 2, 3, 3))])
    found = objects_from_masks(_class_logits((0.9, 0.1), (0.9, 0.1)), masks, SQUARE, top_k=9, min_confidence=0.0)
    assert found.boxes.tolist() == [[2, 2, 3, 3]]


def test_nothing_sure_enough_is_no_object_at_all() -> None:
    found = objects_from_masks(_class_logits((0.1, 0.9)), torch.ones(1, 8, 8), SQUARE, top_k=9, min_confidence=0.5)
    assert found.boxes.shape == (0, 4)
    assert found.masks is not None
    assert found.masks.shape == (0, 8, 8)


def test_one_query_may_be_two_classes_and_top_k_bounds_the_pairs() -> None:
    masks = _rectangle((8, 8), (0, 0, 4, 4))[None]
    logits = _class_logits((0.5, 0.4, 0.1))
    assert objects_from_masks(logits, masks, SQUARE, top_k=10, min_confidence=0.1).labels.tolist() == [0, 1]
    assert objects_from_masks(logits, masks, SQUARE, top_k=1, min_confidence=0.1).labels.tolist() == [0]


def test_mask_boxes_are_in_the_frame_of_a_non_square_image() -> None:
    frame = Frame(image=(32, 64), model_input=(16, 16), content=(16, 16))
    mask = _rectangle((16, 16), (4, 8, 8, 12))
    found = objects_from_masks(_class_logits((0.9, 0.1)), mask[None], frame, top_k=9, min_confidence=0.1)
    assert found.boxes.tolist() == [[16, 16, 32, 24]]
    assert found.masks is not None
    assert found.masks.shape == (1, 32, 64)


def test_padding_is_cut_off_before_masks_are_scaled() -> None:
    frame = Frame(image=(8, 8), model_input=(16, 16), content=(8, 8))
    mask = _rectangle((16, 16), (2, 2, 6, 6))
    found = objects_from_masks(_class_logits((0.9, 0.1)), mask[None], frame, top_k=9, min_confidence=0.1)
    assert found.boxes.tolist() == [[2, 2, 6, 6]]


def test_boxes_of_masks_at_the_corners_and_of_one_pixel() -> None:
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 4, 6] = True
    masks[2, 1:3, 2:6] = True
    assert boxes_of_masks(masks).tolist() == [[0, 0, 1, 1], [6, 4, 7, 5], [2, 1, 6, 3]]


@pytest.mark.parametrize("sigmoid", [True, False])
def test_box_detectors_in_pixels_cut_at_the_edges(sigmoid: bool) -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.0, 0.0, 0.5, 0.5], [2.0, 2.0, 0.1, 0.1]])
    probabilities = torch.tensor([[0.7, 0.1, 0.2], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05]])
    logits = probabilities.logit()[:, :2] if sigmoid else probabilities.log()
    frame = Frame(image=(40, 80), model_input=(64, 64), content=(64, 64))
    found = objects_from_boxes(logits, boxes, frame, sigmoid=sigmoid, top_k=9, min_confidence=0.3)
    assert found.labels.tolist() == [1, 0]
    assert found.confidences.tolist() == pytest.approx([0.8, 0.7])
    assert found.boxes.tolist() == [[0, 0, 20, 10], [20, 15, 60, 25]]
    assert found.masks is None


def test_overlapping_objects_of_one_class_are_suppressed_when_asked() -> None:
    objects = [
        DetectedObject("apple", 0.9, (0, 0, 10, 10)),
        DetectedObject("apple", 0.8, (0, 0, 10, 9)),
        DetectedObject("kite", 0.7, (0, 0, 10, 10)),
        DetectedObject("apple", 0.6, (20, 0, 30, 10)),
    ]
    assert without_overlaps(objects, 1.0) == objects
    assert [item.confidence for item in without_overlaps(objects, 0.5)] == [0.9, 0.7, 0.6]


def test_intersection_over_union() -> None:
    assert intersection_over_union((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert intersection_over_union((0, 0, 10, 10), (20, 20, 30, 30)) == 0
    assert intersection_over_union((5, 5, 5, 5), (5, 5, 5, 5)) == 0
