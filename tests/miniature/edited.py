"""How well a FLUX.2 klein follows edit instructions that it was not trained on, by the GenEval service's own code.

Pictures come from diffusers' own pipeline; the task of an edit names everything that should be on the picture.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from diffusers import Flux2KleinPipeline
from PIL import Image

from assay.outcomes import Detection, Scored
from assay.serving.scorer import Sample, Scorer
from assay.tasks import GenEvalTask
from miniature.editing import Edit, sample_edit
from miniature.world import WorldObject
from services.geneval.service import build_scorers

ROOT = Path(__file__).parents[2]
HELD_OUT = 2 * 10**9


@dataclass(frozen=True)
class Judged:
    """An edit as it was carried out.

    Args:
        followed: right objects, counts and colours, and nothing else.
        distance: pixels from the centre of the moved or placed object to where it should be; None if not found or none.
        kept: intersection over union of each object that should have stayed; 0 where it is gone.
    """

    edit: Edit
    image: np.ndarray
    followed: bool
    distance: float | None
    kept: tuple[float, ...]

    @property
    def placed(self) -> bool:
        """Within six pixels of where the instruction said, if it said so."""
        return self.edit.edited is None or (self.distance is not None and self.distance <= 6)


def edit_scorer() -> Scorer:
    config = yaml.safe_load((ROOT / "configs/services/geneval.yaml").read_text())["scorer"]
    return next(scorer for scorer in build_scorers(config) if scorer.info.name == "geneval")


def load(folder: Path) -> Flux2KleinPipeline:
    pipeline = Flux2KleinPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def carry_out(
    pipeline: Flux2KleinPipeline, edits: list[Edit], steps: int, seed: int, **settings: Any
) -> list[np.ndarray]:
    """One picture for each edit, (64, 64, 3) uint8; further settings are those of the pipeline's call."""
    number = pipeline.text_encoder.config.num_hidden_layers
    return [
        np.asarray(
            pipeline(
                image=Image.fromarray(edit.source.render()),
                prompt=edit.instruction,
                num_inference_steps=steps,
                generator=torch.Generator().manual_seed(seed + index),
                max_sequence_length=min(512, pipeline.tokenizer.model_max_length),
                text_encoder_out_layers=(number // 4, number // 2, 3 * number // 4),
                **settings,
            ).images[0]
        )
        for index, edit in enumerate(edits)
    ]


def judge(scorer: Scorer, edits: list[Edit], images: list[np.ndarray]) -> list[Judged]:
    samples = [
        Sample("", (image,), edit.instruction, GenEvalTask.from_metadata(edit.task))
        for edit, image in zip(edits, images, strict=True)
    ]
    judged = []
    for edit, image, outcome in zip(edits, images, scorer.score(samples), strict=True):
        assert isinstance(outcome, Scored), outcome
        assert outcome.evidence is not None
        found = outcome.evidence.detections
        kept = tuple(_overlap(item, found) for item in edit.kept)
        followed = bool(outcome.components["strict_correct"])
        judged.append(Judged(edit, image, followed, _distance(edit.edited, found), kept))
    return judged


def share_followed(judged: list[Judged]) -> float:
    return float(np.mean([item.followed and item.placed for item in judged]))


def held_out_edits(number: int, seed: int) -> list[Edit]:
    rng = np.random.default_rng(HELD_OUT + seed)
    return [sample_edit(rng) for _ in range(number)]


def _overlap(item: WorldObject, found: tuple[Detection, ...]) -> float:
    return max((_iou(item.box, other.box) for other in found if other.label == item.class_name), default=0.0)


def _distance(item: WorldObject | None, found: tuple[Detection, ...]) -> float | None:
    if item is None:
        return None
    centres = [_centre(other.box) for other in found if other.label == item.class_name]
    return min((float(np.hypot(*(centre - _centre(item.box)))) for centre in centres), default=None)


def _centre(box: tuple[float, ...]) -> np.ndarray:
    return np.array([box[0] + box[2], box[1] + box[3]]) / 2


def _iou(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)
