"""Build the spatial service's scorers from the `scorer:` block of its YAML file. The serving kit hosts them."""

from typing import Any

import numpy as np

from assay.errors import ConfigError
from assay.serving.scorer import Scorer
from assay.spatial_questions import read_spatial_questions
from assay.vision_language.judge import Judge
from assay.vision_language.models import build_judge_and_writer
from assay.vision_language.writer import Writer
from services.spatial.config import RelationDetectorBlock, RoboReferBlock, SpatialConfig, read_config
from services.spatial.detector_opinion import DetectorOpinions
from services.spatial.pointing.families import FAMILIES
from services.spatial.pointing_scorer import PointingScorer
from services.spatial.relation_scorer import RelationScorer


def build_scorers(model_config: dict[str, Any]) -> list[Scorer]:
    """Load the models, or find their server, and return the scorers, which share them.

    Args:
        model_config: the `scorer:` block.

    Raises:
        ConfigError: the block is not valid, a template is not, or the server cannot do what is needed.
        ModelLoadError: a model cannot be found, not be loaded completely, or not do what is needed.
    """
    config = read_config(model_config)
    templates = read_spatial_questions(config.templates)
    judge, writer = _judge_and_writer(config)
    scorers: list[Scorer] = []
    for name in config.scorers:
        if name == "relation":
            assert judge is not None
            opinions = _opinions(config.relation.detector)
            scorers.append(RelationScorer(judge, opinions, templates["relation"], config.relation))
        else:
            assert writer is not None
            assert config.pointing is not None
            pointing = config.pointing
            scorers.append(PointingScorer(name, writer, pointing.family, pointing.max_new_tokens, templates))
    return scorers


def _judge_and_writer(config: SpatialConfig) -> tuple[Judge | None, Writer | None]:
    if isinstance(config.backend, RoboReferBlock):
        from services.spatial.roborefer_writer import RoboReferWriter

        return None, RoboReferWriter(config.backend)
    judge, writer = build_judge_and_writer(config.backend, config.answers, judges=config.judges, writes=config.points)
    if writer is not None and config.pointing is not None and FAMILIES[config.pointing.family].needs_input_size:
        _check_input_size(writer, config.pointing.family)
    return judge, writer


def _check_input_size(writer: Writer, family: str) -> None:
    if writer.input_size(np.zeros((64, 64, 3), np.uint8)) is None:
        raise ConfigError(
            f"pointing.family = {family!r} points in pixels of what the processor makes of an image, and this model's "
            "does not tell how large that is; allowed: another family, or a model of this one",
            reason="INPUT_SIZE_UNKNOWN",
        )


def _opinions(block: RelationDetectorBlock | None) -> DetectorOpinions | None:
    if block is None:
        return None
    # Here, for without a detector the GenEval service's models are not needed.
    from services.geneval.detectors.transformers_detector import TransformersDetector

    detector = TransformersDetector(
        block.detector.model,
        revision=block.detector.revision,
        device=block.device,
        min_confidence=block.threshold,
        top_k=block.detector.top_k,
        max_overlap=block.detector.max_overlap,
        max_images_per_pass=block.detector.max_images_per_pass,
        allow_unexpected=block.detector.allow_unexpected,
    )
    return DetectorOpinions(detector, block.threshold, block.position_margin)
