"""From a detection model's raw outputs to objects in pixels of the image, for the two families of query detectors.

Mask classifiers (Mask2Former): the score of a (query, class) pair is class probability x mean mask probability inside
the mask, as in facebookresearch/Mask2Former and OpenMMLab's mmdet; transformers' own post-processing shrinks masks to a
fixed size, gives no boxes and lets objects overwrite each other, so it is not used. Box detectors (the DETR family)
give boxes and class scores directly.

Both return plain tensors on the model's device; labels are the model's class indices. Class names are not known here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate


@dataclass(frozen=True)
class ObjectTensors:
    """The objects of one image, the surest first.

    Args:
        confidences: (objects,) in [0, 1].
        labels: (objects,) class indices.
        boxes: (objects, 4) x1, y1, x2, y2 in pixels of the image.
        masks: (objects, height, width) boolean, or None.
    """

    confidences: Tensor
    labels: Tensor
    boxes: Tensor
    masks: Tensor | None

    def sorted(self) -> "ObjectTensors":
        order = torch.argsort(self.confidences, descending=True, stable=True)
        masks = None if self.masks is None else self.masks[order]
        return ObjectTensors(self.confidences[order], self.labels[order], self.boxes[order], masks)


@dataclass(frozen=True)
class Frame:
    """Where an image lies in the model's input, all (height, width) in pixels.

    Args:
        image: size of the image as given.
        model_input: size of the model's input.
        content: size of the part of the input, from its top left corner, that shows the image; the rest is padding.
    """

    image: tuple[int, int]
    model_input: tuple[int, int]
    content: tuple[int, int]


def objects_from_masks(
    class_logits: Tensor, mask_logits: Tensor, frame: Frame, *, top_k: int, min_confidence: float
) -> ObjectTensors:
    """Objects of one image from a mask classifier.

    Args:
        class_logits: (queries, classes + 1), the last class being "no object".
        mask_logits: (queries, mask_height, mask_width).
        frame: where the image lies.
        top_k: number of (query, class) pairs looked at, by class probability.
        min_confidence: only objects above it are returned. A pair is dropped before its mask is looked at when its
            class probability, which bounds its confidence from above, is too low already.
    """
    probabilities = class_logits.float().softmax(-1)[:, :-1]
    class_scores, queries, labels = _best_pairs(probabilities, top_k, min_confidence)
    soft_masks = _to_image(mask_logits[queries].float(), frame)
    masks = soft_masks > 0
    areas = masks.flatten(1).sum(1)
    mask_scores = (soft_masks.sigmoid() * masks).flatten(1).sum(1) / areas.clamp(min=1)
    confidences = class_scores * mask_scores
    kept = (areas > 0) & (confidences > min_confidence)
    masks = masks[kept]
    return ObjectTensors(confidences[kept], labels[kept], boxes_of_masks(masks), masks).sorted()


def objects_from_boxes(
    class_logits: Tensor, boxes: Tensor, frame: Frame, *, sigmoid: bool, top_k: int, min_confidence: float
) -> ObjectTensors:
    """Objects of one image from a detector of boxes.

    Args:
        class_logits: (queries, classes), or (queries, classes + 1) with "no object" last where `sigmoid` is false.
        boxes: (queries, 4) centre x, centre y, width, height as shares of the model's input.
        frame: where the image lies.
        sigmoid: classes are scored one by one (focal loss: RT-DETR, Deformable DETR), not by softmax (DETR, YOLOS).
        top_k: number of (query, class) pairs looked at.
        min_confidence: only objects above it are returned.
    """
    logits = class_logits.float()
    probabilities = logits.sigmoid() if sigmoid else logits.softmax(-1)[:, :-1]
    confidences, queries, labels = _best_pairs(probabilities, top_k, min_confidence)
    pixels = _corners_in_image(boxes[queries].float(), frame)
    has_area = (pixels[:, 2] > pixels[:, 0]) & (pixels[:, 3] > pixels[:, 1])
    return ObjectTensors(confidences[has_area], labels[has_area], pixels[has_area], None).sorted()


def boxes_of_masks(masks: Tensor) -> Tensor:
    """The tightest boxes (objects, 4) around masks (objects, height, width), none of them empty; x2, y2 exclusive."""
    columns, rows = masks.any(1), masks.any(2)
    x1, y1 = columns.int().argmax(1), rows.int().argmax(1)
    x2 = columns.shape[1] - columns.flip(1).int().argmax(1)
    y2 = rows.shape[1] - rows.flip(1).int().argmax(1)
    return torch.stack((x1, y1, x2, y2), dim=1).float()


def _best_pairs(probabilities: Tensor, top_k: int, min_confidence: float) -> tuple[Tensor, Tensor, Tensor]:
    """(probability, query, class) of the surest (query, class) pairs above the minimum; each (pairs,)."""
    scores, indices = probabilities.flatten().topk(min(top_k, probabilities.numel()))
    kept = scores > min_confidence
    indices = indices[kept]
    num_classes = probabilities.shape[1]
    return scores[kept], indices // num_classes, indices % num_classes


def _to_image(mask_logits: Tensor, frame: Frame) -> Tensor:
    """Masks (objects, height, width) from the model's stride to the image's size, by way of the model's input size.

    Both references resize twice, so that padding can be cut off in between.
    """
    if len(mask_logits) == 0:
        return mask_logits.new_zeros((0, *frame.image))
    at_input = interpolate(mask_logits[None], size=frame.model_input, mode="bilinear", align_corners=False)
    content = at_input[:, :, : frame.content[0], : frame.content[1]]
    return interpolate(content, size=frame.image, mode="bilinear", align_corners=False)[0]


def _corners_in_image(boxes: Tensor, frame: Frame) -> Tensor:
    """Corners in pixels of the image, cut at its edges."""
    center, size = boxes[:, :2], boxes[:, 2:]
    corners = torch.cat((center - size / 2, center + size / 2), dim=1)
    image_height, image_width = frame.image
    scale_x = frame.model_input[1] * image_width / frame.content[1]
    scale_y = frame.model_input[0] * image_height / frame.content[0]
    pixels = corners * corners.new_tensor([scale_x, scale_y, scale_x, scale_y])
    limit = pixels.new_tensor([image_width, image_height, image_width, image_height])
    return torch.minimum(pixels.clamp(min=0), limit)
