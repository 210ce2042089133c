"""Build the GenEval service's scorers from the `scorer:` block of its YAML file. The serving kit hosts them."""

from typing import Any

from assay.serving.model_files import ModelLoadError
from assay.serving.scorer import Scorer
from services.geneval.colors import ClipColors
from services.geneval.config import DetectorBlock, GenEvalConfig, read_config
from services.geneval.detectors.detector import Detector
from services.geneval.detectors.transformers_detector import TransformersDetector
from services.geneval.examination import Examiner
from services.geneval.scorer import GenEvalScorer


def build_scorers(model_config: dict[str, Any]) -> list[Scorer]:
    """Load the models and return the scorers `geneval` and `counting`, which share them.

    Args:
        model_config: the `scorer:` block.

    Raises:
        ConfigError: the block is not valid.
        ModelLoadError: a model cannot be found, or not be loaded completely.
    """
    config = read_config(model_config)
    rules = config.rules.settings()
    examiner = Examiner(_detector(config), _colors(config), rules)
    return [
        GenEvalScorer("geneval", config.score, examiner, max_objects=rules.max_objects),
        GenEvalScorer("counting", "counting", examiner, max_objects=rules.max_objects),
    ]


def _detector(config: GenEvalConfig) -> Detector:
    block, rules = config.detector, config.rules
    shared: dict[str, Any] = {
        "device": config.device,
        "min_confidence": min(rules.threshold, rules.counting_threshold),
        "max_overlap": block.max_overlap,
        "max_images_per_pass": block.max_images_per_pass,
    }
    if block.backend == "mmdet":
        return _mmdet_detector(block, shared)
    return TransformersDetector(
        block.model,
        revision=block.revision,
        top_k=block.top_k,
        allow_unexpected=block.allow_unexpected,
        **shared,
    )


def _mmdet_detector(block: DetectorBlock, shared: dict[str, Any]) -> Detector:
    try:
        from services.geneval.detectors.mmdet_detector import MmdetDetector
    except ImportError as error:
        raise ModelLoadError(f"detector.backend = 'mmdet' needs the environment of `make mmdet`: {error}") from error
    return MmdetDetector(block.model, config=block.config, **shared)


def _colors(config: GenEvalConfig) -> ClipColors | None:
    block = config.colors
    if block is None:
        return None
    return ClipColors(
        block.model,
        revision=block.revision,
        device=config.device,
        max_crops_per_pass=block.max_crops_per_pass,
        allow_unexpected=block.allow_unexpected,
    )
