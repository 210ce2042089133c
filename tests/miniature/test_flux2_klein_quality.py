"""The miniature's FLUX.2 klein follows edit instructions as well as its model card says, on edits new to it.

Pictures come from diffusers' own pipeline; the GenEval service's own code judges them by a task that names everything
that should be on the picture.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import Flux2KleinPipeline
from PIL import Image

from assay.outcomes import Detection, Scored
from assay.serving.scorer import Sample, Scorer
from assay.tasks import GenEvalTask
from miniature.editing import OPERATION_SHARES, Edit, sample_edit
from miniature.world import WorldObject
from services.geneval.service import build_scorers

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "miniature" / "weights" / "flux2_klein"
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


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    config = yaml.safe_load((ROOT / "configs/services/geneval.yaml").read_text())["scorer"]
    return next(scorer for scorer in build_scorers(config) if scorer.info.name == "geneval")


@pytest.fixture(scope="module")
def pipeline() -> Flux2KleinPipeline:
    return load(WEIGHTS)


def test_instructions_are_followed_in_four_steps(pipeline: Flux2KleinPipeline, scorer: Scorer) -> None:
    edits = held_out_edits(150, seed=10)
    judged = judge(scorer, edits, carry_out(pipeline, edits, steps=4, seed=HELD_OUT))
    assert _share_followed(judged) >= 0.80
    for operation in OPERATION_SHARES:
        assert _share_followed([item for item in judged if item.edit.operation == operation]) >= 0.70, operation
    assert np.mean([overlap for item in judged for overlap in item.kept]) >= 0.85


def test_instructions_are_followed_in_many_steps(pipeline: Flux2KleinPipeline, scorer: Scorer) -> None:
    edits = held_out_edits(30, seed=11)
    judged = judge(scorer, edits, carry_out(pipeline, edits, steps=28, seed=HELD_OUT))
    assert _share_followed(judged) >= 0.80


def test_the_judge_tells_results_from_sources(scorer: Scorer) -> None:
    """So that a model which copies its source, or does something else, cannot pass."""
    edits = held_out_edits(60, seed=12)
    results = judge(scorer, edits, [edit.result.render() for edit in edits])
    assert _share_followed(results) >= 0.90
    assert np.mean([overlap for item in results for overlap in item.kept]) >= 0.93
    assert _share_followed(judge(scorer, edits, [edit.source.render() for edit in edits])) <= 0.05


def load(folder: Path) -> Flux2KleinPipeline:
    pipeline = Flux2KleinPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def carry_out(pipeline: Flux2KleinPipeline, edits: list[Edit], steps: int, seed: int) -> list[np.ndarray]:
    """One picture for each edit, (64, 64, 3) uint8."""
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


def _share_followed(judged: list[Judged]) -> float:
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
