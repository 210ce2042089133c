"""Object detection with OpenMMLab's mmdet 3: the official GenEval detector's own code and checkpoint format.

mmdet lives in an environment of its own (`services/geneval/mmdet/`); this module is imported only there. Its pipeline
takes BGR, as the official evaluator, which reads files with OpenCV, gives it.
"""

import hashlib
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmdet
import numpy as np
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import HistoryBuffer
from numpy.typing import NDArray

from assay.files import digest_file
from assay.serving.model_files import ModelLoadError
from services.geneval.detectors.detector import DetectedObject
from services.geneval.detectors.overlap import without_overlaps
from services.geneval.detectors.passes import detect_in_passes
from services.geneval.vocabulary import geneval_class_name

OFFICIAL_CONFIG = "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco"


class MmdetDetector:
    """A detector from a configuration and a checkpoint; see `services.geneval.detectors.detector.Detector`.

    Args:
        checkpoint: `.pth` file in OpenMMLab's format. It is read without running code from it.
        config: a configuration file, or the name of one that comes with mmdet.
        device: torch device, or `auto`.
        min_confidence: objects at or below it are not returned.
        max_overlap: see `without_overlaps`; 1.0 is off.
        max_images_per_pass: bounds the memory of one forward pass.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        config: str = OFFICIAL_CONFIG,
        device: str = "auto",
        min_confidence: float = 0.3,
        max_overlap: float = 1.0,
        max_images_per_pass: int = 4,
    ) -> None:
        register_all_modules(init_default_scope=True)
        settings = Config.fromfile(find_config(config))
        self._device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self._model = build_model(settings)
        if getattr(self._model, "num_classes", 80) != 80:
            raise ModelLoadError(
                f"detector.config = {config!r} has {self._model.num_classes} classes; allowed: COCO's 80"
            )
        load_checkpoint(self._model, Path(checkpoint))
        self._model.to(self._device).eval()
        self._pipeline = Compose(array_pipeline(settings))
        self._labels = [geneval_class_name(name) for name in CocoDataset.METAINFO["classes"]]
        self._min_confidence = min_confidence
        self._max_overlap = max_overlap
        self._max_images_per_pass = max_images_per_pass
        settings_digest = hashlib.sha256(settings.pretty_text.encode()).hexdigest()
        self._digests = {"detector_files": digest_file(Path(checkpoint)), "detector_config": settings_digest}

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return tuple(self._labels)

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        settings = f"mmdet={mmdet.__version__} min_confidence={self._min_confidence} max_overlap={self._max_overlap}"
        return {**self._digests, "detector_settings": settings}

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[DetectedObject]]:
        return detect_in_passes(images, self._max_images_per_pass, self._detect_same_size)

    @torch.inference_mode()
    def _detect_same_size(self, images: list[NDArray[np.uint8]]) -> list[list[DetectedObject]]:
        prepared = [
            self._pipeline({"img": np.ascontiguousarray(image[..., ::-1]), "img_id": index})
            for index, image in enumerate(images)
        ]
        return [self._objects(sample.pred_instances) for sample in self._model.test_step(pseudo_collate(prepared))]

    def _objects(self, instances: Any) -> list[DetectedObject]:
        kept = instances[instances.scores > self._min_confidence].cpu()
        order = torch.argsort(kept.scores, descending=True, stable=True).tolist()
        masks = kept.masks.numpy().astype(bool) if "masks" in kept else None
        objects = [
            DetectedObject(
                self._labels[int(kept.labels[index])],
                float(kept.scores[index]),
                tuple(kept.bboxes[index].tolist()),
                None if masks is None else masks[index],
            )
            for index in order
        ]
        return without_overlaps(objects, self._max_overlap)


def find_config(name: str) -> Path:
    """The configuration file `name`, or the one of that name that comes with mmdet.

    Raises:
        ModelLoadError: there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = Path(mmdet.__file__).parent / ".mim" / "configs"
    found = sorted(shipped.rglob(f"{name}.py"))
    if not found:
        raise ModelLoadError(f"detector.config = {name!r}: no such file, and mmdet {mmdet.__version__} brings none")
    return found[0]


def build_model(settings: Config) -> Any:
    """The model, with random weights: whatever a configuration would download first is left out."""
    settings.model.train_cfg = None
    if "backbone" in settings.model:
        settings.model.backbone.init_cfg = None
    return MODELS.build(settings.model)


def array_pipeline(settings: Config) -> list[dict[str, Any]]:
    """The configuration's test pipeline, starting from an array instead of a file, without annotations."""
    steps = [dict(step) for step in settings.test_dataloader.dataset.pipeline if step["type"] != "LoadAnnotations"]
    steps[0] = {**steps[0], "type": "mmdet.LoadImageFromNDArray"}  # with its to_float32, which decides the resizing
    return steps


def load_checkpoint(model: Any, path: Path) -> None:
    """Load weights completely or not at all: a half-loaded detector finds nothing, which looks like bad images.

    Raises:
        ModelLoadError: the file is missing, is no checkpoint, or its keys are not the model's.
    """
    if not path.is_file():
        raise ModelLoadError(f"detector.model = {str(path)!r}: there is no such file")
    try:
        with _what_openmmlab_stores():
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        # Torch's own message goes on to say how to load a file that runs code: not here.
        foreign = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        why = f"it refers to {foreign[1]}" if foreign else type(error).__name__
        raise ModelLoadError(
            f"detector.model = {str(path)!r} cannot be read as a checkpoint of tensors and plain values: {why}"
        ) from None
    state = stored.get("state_dict", stored)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ModelLoadError(f"detector.model = {str(path)!r}: weights of another shape: {error}") from error
    if missing or unexpected:
        raise ModelLoadError(
            f"detector.model = {str(path)!r} is a checkpoint of another model: {len(missing)} of the model's keys are "
            f"missing ({', '.join(missing[:3])}), {len(unexpected)} are unknown ({', '.join(list(unexpected)[:3])})"
        )


@contextmanager
def _what_openmmlab_stores() -> Iterator[None]:
    """OpenMMLab's checkpoints hold, beside tensors, their training log: arrays, numbers and names of its methods."""
    from numpy._core.multiarray import _reconstruct, scalar

    numbers = [type(np.dtype(code)) for code in ("f8", "f4", "i8", "i4", "b1")]
    methods = (_no_method, "builtins.getattr")  # the log refers to methods of its class; nothing of it is ever called
    with torch.serialization.safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, *numbers, _reconstruct, scalar, methods]
    ):
        yield


def _no_method(owner: object, name: str) -> None:
    """Stands for a method that a training log refers to."""
