"""The service as configured: its YAML files, its errors, and one whole pass through models of the real classes."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from assay.errors import ConfigError
from assay.outcomes import Scored
from assay.serving.model_files import ModelLoadError
from assay.serving.scorer import Sample
from assay.tasks import GenEvalTask
from services.geneval.config import read_config
from services.geneval.service import build_scorers

CONFIGS = Path(__file__).parent.parent.parent / "configs" / "services"


def _config(detector: Path | str, clip: Path | str, **rules: Any) -> dict[str, Any]:
    return {
        "device": "cpu",
        "rules": {"threshold": 0.01, "counting_threshold": 0.01, "max_objects": 50, **rules},
        "detector": {"model": str(detector)},
        "colors": {"model": str(clip)},
    }


@pytest.mark.parametrize("name", ["geneval.yaml", "geneval_full.yaml"])
def test_shipped_configurations_are_valid(name: str) -> None:
    block = yaml.safe_load((CONFIGS / name).read_text())
    assert set(block) == {"serve", "scorer"}
    config = read_config(block["scorer"])
    assert config.rules.max_objects > 40
    if name == "geneval_full.yaml":
        assert (config.rules.threshold, config.rules.counting_threshold) == (0.3, 0.9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rules": {"thresold": 0.5}}, "unknown field rules.thresold (did you mean threshold?"),
        ({"rules": {"threshold": 1.5}}, "rules.threshold = 1.5"),
        ({"rules": {"max_objects": 1}}, "rules.max_objects = 1"),
        ({"score": "best"}, "'soft', 'strict', 'official' or 'compat'"),
        ({"detector": {}}, "detector.model is missing"),
        ({"detector": {"model": "x", "backend": "yolo"}}, "detector.backend = 'yolo'"),
        ({"detector": {"model": "x", "backend": "mmdet", "top_k": 5}}, "top_k does not go with backend mmdet"),
        ({"detector": {"model": "x", "config": "y"}}, "config does not go with backend transformers"),
        ({"colours": None}, "unknown field colours (did you mean colors?"),
    ],
)
def test_configuration_errors_name_field_value_and_what_is_allowed(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config({**_config("a", "b"), **change})
    assert said in str(caught.value)


def test_model_that_is_not_there_stops_the_start(clip_folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="no/such/detector"):
        build_scorers(_config("no/such/detector", clip_folder))


def test_mmdet_without_its_environment_says_what_to_do(clip_folder: Path) -> None:
    if importlib.util.find_spec("mmdet"):
        pytest.skip("this is the environment with mmdet")
    config = _config("x.pth", clip_folder)
    config["detector"]["backend"] = "mmdet"
    with pytest.raises(ModelLoadError, match="needs the environment of `make mmdet`"):
        build_scorers(config)


def test_the_whole_path_through_real_model_classes(mask2former_folder: Path, clip_folder: Path) -> None:
    scorers = {scorer.info.name: scorer for scorer in build_scorers(_config(mask2former_folder, clip_folder))}
    assert set(scorers) == {"geneval", "counting"}
    assert scorers["geneval"].info.fingerprint != scorers["counting"].info.fingerprint
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 48, 3), dtype=np.uint8)
    include = {"class": "kite", "count": 1, "color": "red"}
    tasks = [
        GenEvalTask.from_metadata({"tag": tag, "include": [entry]})
        for tag, entry in (("counting", {"class": "apple", "count": 2}), ("colors", include))
    ]
    batch = [Sample(str(i), (image,), "", tasks[i % 2]) for i, image in enumerate(images)]
    for scorer in scorers.values():
        together = scorer.score(batch)
        for sample, outcome in zip(batch, together, strict=True):
            alone = scorer.score([sample])[0]
            assert isinstance(outcome, Scored)
            assert isinstance(alone, Scored)
            assert 0 <= outcome.value <= 1
            assert alone.components == outcome.components
    evidence = scorers["geneval"].score(batch[1:2])[0].evidence  # type: ignore[union-attr]
    assert evidence is not None
    assert [item.color is not None for item in evidence.detections if item.label == "kite"][:1] == [True]


def test_fingerprint_follows_thresholds_and_not_the_place(mask2former_folder: Path, clip_folder: Path) -> None:
    def fingerprint(**rules: Any) -> str:
        return build_scorers(_config(mask2former_folder, clip_folder, **rules))[0].info.fingerprint

    assert fingerprint() == fingerprint()
    assert fingerprint(threshold=0.02) != fingerprint()
