"""The mmdet backend, in its own environment (`make mmdet`): the true architecture with random weights."""

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.mmdet
pytest.importorskip("mmdet")

import torch  # noqa: E402
from mmdet.apis import inference_detector  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.logging import HistoryBuffer  # noqa: E402
from PIL import Image  # noqa: E402

from assay.client import RewardClient  # noqa: E402
from assay.outcomes import Scored  # noqa: E402
from assay.serving.model_files import ModelLoadError  # noqa: E402
from assay.testing import serve_in_background  # noqa: E402
from services.geneval.detectors.mmdet_detector import (  # noqa: E402
    OFFICIAL_CONFIG,
    MmdetDetector,
    build_model,
    find_config,
)
from services.geneval.service import build_scorers  # noqa: E402


def save(model: object, path: Path) -> Path:
    """A checkpoint with what OpenMMLab's have beside tensors: a training log with arrays in it."""
    log = HistoryBuffer([1.0, 0.5], [1, 1])
    meta = {"epoch": 1, "message_hub": {"log_scalars": {"loss": log}}, "dataset_meta": {"classes": ("person",)}}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The official configuration with a narrow Swin and small inputs; every part of it is there."""
    register_all_modules(init_default_scope=True)
    folder = tmp_path_factory.mktemp("tiny")
    settings = Config.fromfile(find_config(OFFICIAL_CONFIG))
    settings.model.backbone.update(embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), init_cfg=None)
    settings.model.panoptic_head.in_channels = [24, 48, 96, 192]
    for step in settings.test_dataloader.dataset.pipeline:
        if step["type"] == "Resize":
            step["scale"] = (96, 96)
    settings.dump(folder / "tiny.py")
    torch.manual_seed(0)
    return {
        "config": str(folder / "tiny.py"),
        "checkpoint": str(save(build_model(Config.fromfile(folder / "tiny.py")), folder / "tiny.pth")),
    }


@pytest.fixture(scope="module")
def detector(tiny: dict[str, str]) -> MmdetDetector:
    return MmdetDetector(tiny["checkpoint"], config=tiny["config"], device="cpu", min_confidence=0.0)


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in ((64, 80, 3), (48, 48, 3), (64, 80, 3))]


def test_shapes_frames_order_and_vocabulary(detector: MmdetDetector) -> None:
    assert len(detector.vocabulary) == 80
    assert "computer mouse" in detector.vocabulary
    for image, objects in zip(pictures(), detector.detect(pictures()), strict=True):
        height, width = image.shape[:2]
        assert objects
        confidences = [item.confidence for item in objects]
        assert confidences == sorted(confidences, reverse=True)
        for item in objects:
            assert item.mask is not None
            assert item.mask.shape == (height, width)
            x1, y1, x2, y2 = item.box
            assert 0 <= x1 <= x2 <= width
            assert 0 <= y1 <= y2 <= height
            if item.mask.any():
                rows, columns = np.flatnonzero(item.mask.any(1)), np.flatnonzero(item.mask.any(0))
                assert item.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_a_batch_gives_what_single_images_give(detector: MmdetDetector) -> None:
    together = detector.detect(pictures())
    for image, objects in zip(pictures(), together, strict=True):
        (alone,) = detector.detect([image])
        assert [item.label for item in alone[:20]] == [item.label for item in objects[:20]]
        np.testing.assert_allclose(
            [item.confidence for item in alone], [item.confidence for item in objects], atol=1e-5
        )


def test_objects_are_those_of_mmdet_reading_the_file_itself(
    detector: MmdetDetector, tiny: dict[str, str], tmp_path: Path
) -> None:
    """A second way to the same objects: mmdet's own API on a path, as the official evaluator calls it (BGR, OpenCV)."""
    image = pictures()[0]
    image[..., 0], image[..., 2] = 250, 5  # swapped channels would show
    Image.fromarray(image).save(tmp_path / "image.png")
    model = detector._model
    model.cfg = Config.fromfile(tiny["config"])
    model.cfg.test_dataloader.dataset.pipeline = [
        step for step in model.cfg.test_dataloader.dataset.pipeline if step["type"] != "LoadAnnotations"
    ]
    instances = inference_detector(model, str(tmp_path / "image.png")).pred_instances
    (objects,) = detector.detect([image])
    wanted = sorted(instances.scores.tolist(), reverse=True)
    np.testing.assert_allclose([item.confidence for item in objects], [s for s in wanted if s > 0], atol=1e-5)
    assert objects[0].label == detector.vocabulary[int(instances.labels[instances.scores.argmax()])]


def test_confidence_threshold_and_fingerprint(tiny: dict[str, str], detector: MmdetDetector) -> None:
    (everything,) = detector.detect(pictures()[:1])
    middle = everything[len(everything) // 2].confidence
    strict = MmdetDetector(tiny["checkpoint"], config=tiny["config"], device="cpu", min_confidence=middle)
    (kept,) = strict.detect(pictures()[:1])
    assert 0 < len(kept) < len(everything)
    assert min(item.confidence for item in kept) > middle
    assert strict.fingerprint_parts != detector.fingerprint_parts


def test_checkpoints_of_another_model_are_refused(tiny: dict[str, str], tmp_path: Path) -> None:
    stored = torch.load(tiny["checkpoint"], weights_only=False)
    first = next(iter(stored["state_dict"]))
    del stored["state_dict"][first]
    torch.save(stored, tmp_path / "half.pth")
    with pytest.raises(ModelLoadError, match=f"1 of the model's keys are missing .{first}"):
        MmdetDetector(str(tmp_path / "half.pth"), config=tiny["config"], device="cpu")
    with pytest.raises(ModelLoadError, match="there is no such file"):
        MmdetDetector(str(tmp_path / "none.pth"), config=tiny["config"])
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ModelLoadError, match="cannot be read as a checkpoint"):
        MmdetDetector(str(tmp_path / "text.pth"), config=tiny["config"])
    with pytest.raises(ModelLoadError, match=r"no such file, and mmdet .* brings none"):
        MmdetDetector(tiny["checkpoint"], config="yolo_of_my_own")


class Evil:
    """What a hostile checkpoint would hold."""

    def __reduce__(self) -> tuple:
        return (print, ("this ran",))


def test_a_checkpoint_cannot_run_code(tiny: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "meta": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelLoadError, match="cannot be read as a checkpoint"):
        MmdetDetector(str(tmp_path / "evil.pth"), config=tiny["config"])
    assert "this ran" not in capsys.readouterr().out


def test_the_service_answers_over_grpc(tiny: dict[str, str], detector: MmdetDetector) -> None:
    image = pictures()[0]
    label = detector.detect([image])[0][0].label
    detector = {"backend": "mmdet", "model": tiny["checkpoint"], "config": tiny["config"]}
    rules = {"threshold": 0.0, "counting_threshold": 0.0, "max_objects": 50}
    config = {"device": "cpu", "rules": rules, "detector": detector, "colors": None}
    with serve_in_background(build_scorers(config)) as server, RewardClient([server.target]) as client:
        task = {"tag": "counting", "include": [{"class": label, "count": 2}]}
        (outcome,) = client.score([image], scorer="geneval", prompts=[""], tasks=[task], evidence=True)
    assert isinstance(outcome, Scored)
    found = [item for item in outcome.evidence.detections if item.label == label]
    assert outcome.components[f"found/{label}"] == len(found) > 0


def test_the_official_configuration_at_its_true_size(tmp_path: Path) -> None:
    register_all_modules(init_default_scope=True)
    model = build_model(Config.fromfile(find_config(OFFICIAL_CONFIG)))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(68.7e6, rel=0.01)
    detector = MmdetDetector(str(save(model, tmp_path / "full.pth")), device="cpu", min_confidence=0.0)
    del model
    (objects,) = detector.detect([pictures()[0]])
    assert len(objects) <= 100
    assert objects[0].mask.shape == (64, 80)
