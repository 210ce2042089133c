"""The colour of a detected object, by CLIP zero-shot classification as GenEval does it.

The object is cut out of the image by its box, what its mask leaves out is painted grey, and the crop is compared with
three phrasings of every colour (source: djghosh13/geneval; classifier: LAION-AI/CLIP_benchmark). All crops of a call go
through the model together; the text side is computed once a class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel

from assay.serving.model_files import (
    ModelLoadError,
    digest_model,
    load_complete,
    load_image_processor,
    load_tokenizer,
    locate_model,
)
from services.geneval.detectors.detector import DetectedObject
from services.geneval.vocabulary import COLORS

BACKGROUND = 0x99
_TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")

# CLIP scales the shorter side up and then looks at the central square alone: a sliver of 1 x 1000 pixels would become
# hundreds of megabytes for nothing. Longer crops are cut to this ratio about their centre, which CLIP cannot see.
_MAX_ASPECT_RATIO = 4


@dataclass(frozen=True, eq=False)
class ColorQuestion:
    """Which colour has this object of this image, (height, width, 3) uint8 RGB?"""

    image: NDArray[np.uint8]
    object: DetectedObject


class ClipColors:
    """Names colours with a `CLIPModel`.

    Args:
        model: folder or hub name.
        revision: branch, tag or commit on the hub.
        device: torch device, or `auto`.
        max_crops_per_pass: bounds the memory of one forward pass.
        allow_unexpected: see `load_complete`.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        max_crops_per_pass: int = 256,
        allow_unexpected: Sequence[str] = (),
    ) -> None:
        folder = locate_model(model, revision)
        self._processor = load_image_processor(folder)
        self._tokenizer = load_tokenizer(folder)
        self._model = load_complete(CLIPModel, folder, device, allow_unexpected)
        self._max_crops_per_pass = max_crops_per_pass
        self._text_features: dict[str, Tensor] = {}
        self._digest = digest_model(folder)
        self._check_tokenizer(folder)

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        """What decides the answers, by name."""
        return {"colors_files": self._digest}

    def _check_tokenizer(self, folder: Path) -> None:
        """Refuse a tokenizer that cannot serve this model. One whose files are missing loads all the same, empty, and
        writes every colour alike."""
        rows = [tuple(row) for row in self._tokenizer(list(COLORS))["input_ids"]]
        if len(set(rows)) < len(COLORS) or max(max(row) for row in rows) >= self._model.config.text_config.vocab_size:
            raise ModelLoadError(f"{folder}: no usable tokenizer: its files are missing or those of another model")

    @torch.inference_mode()
    def name_colors(self, questions: Sequence[ColorQuestion]) -> list[str]:
        """The colour of each object, one of GenEval's ten."""
        colors: list[str] = []
        for start in range(0, len(questions), self._max_crops_per_pass):
            colors += self._name_in_one_pass(questions[start : start + self._max_crops_per_pass])
        return colors

    def _name_in_one_pass(self, questions: Sequence[ColorQuestion]) -> list[str]:
        crops = [crop_object(question.image, question.object) for question in questions]
        inputs = self._processor(images=crops, input_data_format="channels_last", return_tensors="pt")
        features = self._model.get_image_features(inputs["pixel_values"].to(self._model.device)).pooler_output
        texts = torch.stack([self._features_of_class(question.object.label) for question in questions])
        similarities = torch.einsum("nd,ncd->nc", normalize(features, dim=-1), texts)
        return [COLORS[index] for index in similarities.argmax(-1).tolist()]

    def _features_of_class(self, name: str) -> Tensor:
        """Unit text features (colours, dimensions) of a class: the mean over the templates."""
        if name not in self._text_features:
            texts = [template.format(color=color, name=name) for color in COLORS for template in _TEMPLATES]
            tokens = self._tokenizer(
                texts,
                padding=True,
                truncation=True,
                max_length=self._model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            )
            features = self._model.get_text_features(**tokens.to(self._model.device)).pooler_output
            by_color = normalize(features, dim=-1).reshape(len(COLORS), len(_TEMPLATES), -1)
            self._text_features[name] = normalize(by_color.mean(1), dim=-1)
        return self._text_features[name]


def crop_object(image: NDArray[np.uint8], item: DetectedObject) -> NDArray[np.uint8]:
    """The object cut out by its box (edges rounded, within the image, at least one pixel), grey outside its mask.

    Args:
        image: (height, width, 3).

    Returns:
        (box height, box width, 3), shortened about its centre where it is very long.
    """
    x1, y1, x2, y2 = item.box
    rows = _central(*_pixel_range(y1, y2, image.shape[0]), limit=_MAX_ASPECT_RATIO * _length(x1, x2, image.shape[1]))
    columns = _central(*_pixel_range(x1, x2, image.shape[1]), limit=_MAX_ASPECT_RATIO * _length(y1, y2, image.shape[0]))
    crop = image[rows, columns]
    if item.mask is None:
        return crop
    return np.where(item.mask[rows, columns, None], crop, np.uint8(BACKGROUND))


def _pixel_range(low: float, high: float, size: int) -> tuple[int, int]:
    """(first, one past last) pixel along one axis; never empty."""
    first = min(max(round(low), 0), size - 1)
    return first, min(max(round(high), first + 1), size)


def _length(low: float, high: float, size: int) -> int:
    first, end = _pixel_range(low, high, size)
    return end - first


def _central(first: int, end: int, limit: int) -> slice:
    """The central `limit` pixels of a range, or all of it."""
    surplus = max(0, end - first - limit)
    return slice(first + surplus // 2, end - (surplus - surplus // 2))
