"""The spatial service's scorer `relation` on the miniature's detector, in the test's process on a real port.

Its vision-language model is of the miniature's class, small and with random weights: what it says of a picture means
nothing, and differs from picture to picture.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from assay.questions import QUESTION_FILES
from assay.serving.scorer import Scorer
from assay.testing import BackgroundServer, FaultInjector, serve_in_background
from miniature.vlm import build_vlm, save_vlm
from services.spatial.service import build_scorers

ROOT = Path(__file__).parents[1]
DETECTOR = {"detector": {"model": str(ROOT / "miniature/weights/detector")}, "device": "cpu", "threshold": 0.5}


def save_judge(folder: Path) -> Path:
    """The vision-language model, as it lies on the hub."""
    texts = [(QUESTION_FILES / "spatial/relation.txt").read_text(), "yes no"]
    model, processor = build_vlm(texts, width=64, text_layers=2, vision_width=64, vision_layers=2)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4.0)  # as a new model has them, all pictures are nearly the same to it
    return save_vlm(folder, model, processor)


def relation_scorer(folder: Path, **relation: object) -> Scorer:
    """The scorer as configs/services/spatial.yaml sets it up, with the model in `folder`."""
    settings = {"value": "detector", "on_abstain": "vlm", "detector": DETECTOR, **relation}
    backend = {"name": "transformers", "model": str(folder), "device": "cpu"}
    (scorer,) = build_scorers({"scorers": ["relation"], "relation": settings, "backend": backend})
    return scorer


@contextmanager
def serve_relation(
    folder: Path, *, faults: FaultInjector | None = None, **relation: object
) -> Iterator[BackgroundServer]:
    """Inside, the service runs; the model is written to `folder` first."""
    with serve_in_background([relation_scorer(save_judge(folder), **relation)], faults=faults) as server:
        yield server
