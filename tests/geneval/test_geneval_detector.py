"""The transformers detector on random weights of the real classes: loading, frames, order, batching."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    SwinConfig,
)

from assay.serving.model_files import ModelLoadError
from services.geneval.detectors.detector import DetectedObject
from services.geneval.detectors.transformers_detector import TransformersDetector
from services.geneval.vocabulary import geneval_class_name


def _images(*sizes: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Random (height, width) images; read-only, as they come from the wire."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for image in images:
        image.flags.writeable = False
    return images


def _same(one: list[DetectedObject], other: list[DetectedObject]) -> bool:
    return len(one) == len(other) and all(
        a.label == b.label
        and a.box == b.box
        and abs(a.confidence - b.confidence) < 1e-4
        and (a.mask is None or np.array_equal(a.mask, b.mask))
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture(params=["mask2former", "rt_detr"])
def detector(request: pytest.FixtureRequest) -> TransformersDetector:
    folder = request.getfixturevalue(f"{request.param}_folder")
    return TransformersDetector(str(folder), device="cpu", min_confidence=0.0)


def test_vocabulary_is_genevals(detector: TransformersDetector) -> None:
    assert detector.vocabulary == ("apple", "computer mouse", "kite")


@pytest.mark.parametrize(
    ("detector_label", "name"), [("sofa", "couch"), ("tvmonitor", "tv"), ("remote", "tv remote"), ("apple", "apple")]
)
def test_class_names_of_published_detectors_become_genevals(detector_label: str, name: str) -> None:
    assert geneval_class_name(detector_label) == name


def test_boxes_and_masks_are_in_pixels_of_each_image_surest_first(detector: TransformersDetector) -> None:
    images = _images((64, 64), (40, 96), (96, 40), (8, 8))
    for image, objects in zip(images, detector.detect(images), strict=True):
        assert objects
        confidences = [item.confidence for item in objects]
        assert confidences == sorted(confidences, reverse=True)
        assert 0 <= confidences[-1] <= confidences[0] <= 1
        height, width = image.shape[:2]
        for item in objects:
            x1, y1, x2, y2 = item.box
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            if item.mask is not None:
                rows, columns = np.nonzero(item.mask)
                assert item.mask.shape == (height, width)
                assert item.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_an_image_gets_the_same_objects_alone_and_in_a_mixed_batch(detector: TransformersDetector) -> None:
    images = _images((64, 64), (48, 80), (64, 64), (48, 80), (64, 64))
    together = detector.detect(images)
    for image, objects in zip(images, together, strict=True):
        assert _same(detector.detect([image])[0], objects)


def test_passes_are_bounded_and_change_nothing(mask2former_folder: Path) -> None:
    images = _images(*[(32, 32)] * 5)
    small = TransformersDetector(str(mask2former_folder), device="cpu", min_confidence=0.0, max_images_per_pass=2)
    large = TransformersDetector(str(mask2former_folder), device="cpu", min_confidence=0.0)
    assert all(_same(one, other) for one, other in zip(small.detect(images), large.detect(images), strict=True))


def test_no_images_no_objects(detector: TransformersDetector) -> None:
    assert detector.detect([]) == []


def test_objects_at_or_below_the_minimum_are_not_returned(mask2former_folder: Path) -> None:
    everything = TransformersDetector(str(mask2former_folder), device="cpu", min_confidence=0.0).detect(
        _images((64, 64))
    )
    minimum = everything[0][3].confidence
    some = TransformersDetector(str(mask2former_folder), device="cpu", min_confidence=minimum).detect(_images((64, 64)))
    assert 0 < len(some[0]) <= 3 < len(everything[0])


def test_channels_reach_the_model_in_rgb_order(mask2former_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    detector = TransformersDetector(str(mask2former_folder), device="cpu")
    forward = detector._model.forward
    monkeypatch.setattr(detector._model, "forward", lambda **inputs: seen.append(inputs) or forward(**inputs))
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    detector.detect([red])
    means = seen[0]["pixel_values"].mean((0, 2, 3))
    assert means[0] > 2
    assert max(means[1:]) < -1


@pytest.fixture
def broken(mask2former_folder: Path, tmp_path: Path) -> Path:
    """A copy of the detector's folder, to be damaged."""
    return Path(shutil.copytree(mask2former_folder, tmp_path / "model"))


def _edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or (None) remove weights; dots in names are written as two underscores."""
    weights = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del weights[key]
        else:
            weights[key] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_missing_weights_are_refused(broken: Path) -> None:
    _edit_weights(broken, class_predictor__bias=None)
    with pytest.raises(ModelLoadError, match=r"1 missing from the checkpoint \(class_predictor\.bias\)"):
        TransformersDetector(str(broken))


def test_weights_of_another_shape_are_refused(broken: Path) -> None:
    _edit_weights(broken, class_predictor__bias=torch.zeros(81))
    with pytest.raises(ModelLoadError, match="class_predictor"):
        TransformersDetector(str(broken))


def test_unknown_weights_are_refused_unless_allowed(broken: Path) -> None:
    _edit_weights(broken, extra__weight=torch.zeros(1))
    with pytest.raises(ModelLoadError, match=r"in the checkpoint but not in the model \(extra\.weight\)"):
        TransformersDetector(str(broken))
    TransformersDetector(str(broken), allow_unexpected=[r"^extra\."])


def test_index_tables_of_older_swin_checkpoints_are_no_fault(broken: Path) -> None:
    key = "model__pixel_level_module__encoder__encoder__layers__0__blocks__0__attention__self__relative_position_index"
    _edit_weights(broken, **{key: torch.zeros(16, 16, dtype=torch.long)})
    TransformersDetector(str(broken))


def test_damaged_or_absent_files_are_refused(broken: Path) -> None:
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelLoadError):
        TransformersDetector(str(broken))
    weights.unlink()
    with pytest.raises(ModelLoadError):
        TransformersDetector(str(broken))
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(ModelLoadError, match="image processor"):
        TransformersDetector(str(broken))
    (broken / "config.json").unlink()
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        TransformersDetector(str(broken))


def test_pickled_weights_are_never_read(broken: Path) -> None:
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError):
        TransformersDetector(str(broken))


def test_model_of_another_kind_is_refused(clip_folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="model_type is 'clip'; allowed: mask2former, rt_detr"):
        TransformersDetector(str(clip_folder))


def test_full_size_architecture_loads_and_detects(tmp_path: Path) -> None:
    """The shape of facebook/mask2former-swin-small-coco-instance (69 M parameters), with random weights."""
    backbone = SwinConfig(
        image_size=384,
        embed_dim=96,
        depths=[2, 2, 18, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.3,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    labels = {index: f"class {index}" for index in range(80)}
    config = Mask2FormerConfig(
        backbone_config=backbone, id2label=labels, label2id={name: index for index, name in labels.items()}
    )
    model = Mask2FormerForUniversalSegmentation(config)
    assert 68e6 < sum(parameter.numel() for parameter in model.parameters()) < 70e6
    model.save_pretrained(tmp_path)
    Mask2FormerImageProcessorPil(size={"shortest_edge": 128, "longest_edge": 213}).save_pretrained(tmp_path)
    detector = TransformersDetector(str(tmp_path), device="cpu", min_confidence=0.0, top_k=5)
    objects = detector.detect(_images((64, 96)))[0]
    assert len(detector.vocabulary) == 80
    assert all(item.mask is not None and item.mask.shape == (64, 96) for item in objects)
