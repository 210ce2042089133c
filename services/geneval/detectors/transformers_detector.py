"""Object detection with a transformers model: Mask2Former (the default), or a box detector of the DETR family.

Images are RGB throughout: transformers' processors normalise RGB (the reward server fed RGB to a BGR pipeline).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForObjectDetection,
    Mask2FormerForUniversalSegmentation,
)

from assay.serving.model_files import (
    ModelLoadError,
    digest_model,
    load_complete,
    load_image_processor,
    locate_model,
    model_type_of,
)
from services.geneval.detectors.detector import DetectedObject
from services.geneval.detectors.model_outputs import Frame, ObjectTensors, objects_from_boxes, objects_from_masks
from services.geneval.detectors.overlap import without_overlaps
from services.geneval.detectors.passes import detect_in_passes
from services.geneval.vocabulary import geneval_class_name


@dataclass(frozen=True)
class _Family:
    """How models of one `model_type` are loaded and read.

    Args:
        model_class: class to load.
        outputs: names of the two raw outputs to read.
        decode: (first output, second output, frame, top_k=, min_confidence=) of one image -> its objects.
    """

    model_class: Any
    outputs: tuple[str, str]
    decode: Callable[..., ObjectTensors]


_MASKS = _Family(
    Mask2FormerForUniversalSegmentation, ("class_queries_logits", "masks_queries_logits"), objects_from_masks
)
_SIGMOID_BOXES = _Family(
    AutoModelForObjectDetection, ("logits", "pred_boxes"), partial(objects_from_boxes, sigmoid=True)
)
_SOFTMAX_BOXES = _Family(
    AutoModelForObjectDetection, ("logits", "pred_boxes"), partial(objects_from_boxes, sigmoid=False)
)
FAMILIES = {
    "mask2former": _MASKS,
    "rt_detr": _SIGMOID_BOXES,
    "rt_detr_v2": _SIGMOID_BOXES,
    "d_fine": _SIGMOID_BOXES,
    "deformable_detr": _SIGMOID_BOXES,
    "conditional_detr": _SIGMOID_BOXES,
    "detr": _SOFTMAX_BOXES,
    "yolos": _SOFTMAX_BOXES,
}


class TransformersDetector:
    """A detector loaded from a folder or the hub; see `services.geneval.detectors.detector.Detector`.

    Args:
        model: folder or hub name; its configuration's `id2label` gives the vocabulary.
        revision: branch, tag or commit on the hub.
        device: torch device, or `auto`.
        min_confidence: objects at or below it are not returned.
        top_k: number of (query, class) pairs looked at in an image.
        max_overlap: see `without_overlaps`; 1.0 is off.
        max_images_per_pass: bounds the memory of one forward pass.
        allow_unexpected: see `load_complete`.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        min_confidence: float = 0.3,
        top_k: int = 100,
        max_overlap: float = 1.0,
        max_images_per_pass: int = 16,
        allow_unexpected: Sequence[str] = (),
    ) -> None:
        folder = locate_model(model, revision)
        self._family = _family_of(folder)
        self._processor = load_image_processor(folder)
        self._model = load_complete(self._family.model_class, folder, device, allow_unexpected)
        self._labels = {index: geneval_class_name(name) for index, name in self._model.config.id2label.items()}
        self._min_confidence = min_confidence
        self._top_k = top_k
        self._max_overlap = max_overlap
        self._max_images_per_pass = max_images_per_pass
        self._digest = digest_model(folder)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return tuple(label for label in self._labels.values() if label != "N/A")

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        settings = f"min_confidence={self._min_confidence} top_k={self._top_k} max_overlap={self._max_overlap}"
        return {"detector_files": self._digest, "detector_settings": settings}

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[DetectedObject]]:
        return detect_in_passes(images, self._max_images_per_pass, self._detect_same_size)

    @torch.inference_mode()
    def _detect_same_size(self, images: list[NDArray[np.uint8]]) -> list[list[DetectedObject]]:
        inputs = self._processor(images=images, input_data_format="channels_last", return_tensors="pt")
        frame = _frame(images[0], inputs)
        outputs = self._model(**inputs.to(self._model.device))
        first, second = (getattr(outputs, name) for name in self._family.outputs)
        return [
            self._objects(
                self._family.decode(
                    first[index], second[index], frame, top_k=self._top_k, min_confidence=self._min_confidence
                )
            )
            for index in range(len(images))
        ]

    def _objects(self, tensors: ObjectTensors) -> list[DetectedObject]:
        masks = [None] * len(tensors.labels) if tensors.masks is None else list(tensors.masks.cpu().numpy())
        rows = zip(tensors.labels.tolist(), tensors.confidences.tolist(), tensors.boxes.tolist(), masks, strict=True)
        objects = [DetectedObject(self._labels[label], score, tuple(box), mask) for label, score, box, mask in rows]
        return without_overlaps(objects, self._max_overlap)


def _family_of(folder: Path) -> _Family:
    model_type = model_type_of(folder)
    if model_type not in FAMILIES:
        raise ModelLoadError(f"{folder}: model_type is {model_type!r}; allowed: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def _frame(image: NDArray[np.uint8], inputs: Any) -> Frame:
    """Where the images of one size lie in their model inputs."""
    input_height, input_width = inputs["pixel_values"].shape[-2:]
    content = (input_height, input_width)
    if "pixel_mask" in inputs:
        shown = inputs["pixel_mask"][0]
        content = (int(shown[:, 0].sum()), int(shown[0].sum()))
    return Frame(image.shape[:2], (input_height, input_width), content)
