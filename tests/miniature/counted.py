"""How often a pipeline's pictures show exactly what counting prompts ask for, by the GenEval service's own code."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from assay.outcomes import Scored
from assay.serving.scorer import Sample
from assay.tasks import GenEvalTask
from miniature.glyphs import CLASSES
from miniature.prompts import counting_metadata
from services.geneval.service import build_scorers

ROOT = Path(__file__).parents[2]
HELD_OUT = 2 * 10**9  # training draws from seeds below one billion


def held_out_tasks(per_prompt: int) -> list[dict[str, Any]]:
    """One to four objects of each class."""
    return [counting_metadata(name, count) for name in CLASSES for count in range(1, 5) for _ in range(per_prompt)]


def draw(pipeline: Any, tasks: list[dict[str, Any]], batch: int = 48, **settings: Any) -> list[Image.Image]:
    """A picture for each task, from the pipeline's own call; one seed each."""
    images: list[Image.Image] = []
    for start in range(0, len(tasks), batch):
        prompts = [task["prompt"] for task in tasks[start : start + batch]]
        seeds = [torch.Generator().manual_seed(HELD_OUT + start + index) for index in range(len(prompts))]
        images += pipeline(prompt=prompts, generator=seeds, height=64, width=64, **settings).images
    return images


def judge(images: list[Image.Image], tasks: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """For each picture, whether just the wanted number is there, and whether at least one of the wanted class is."""
    config = yaml.safe_load((ROOT / "configs/services/geneval.yaml").read_text())["scorer"]
    scorer = next(scorer for scorer in build_scorers(config) if scorer.info.name == "counting")
    samples = [
        Sample("", (np.asarray(image),), task["prompt"], GenEvalTask.from_metadata(task))
        for image, task in zip(images, tasks, strict=True)
    ]
    strict, present = [], []
    for task, outcome in zip(tasks, scorer.score(samples), strict=True):
        assert isinstance(outcome, Scored), outcome
        strict.append(outcome.components["strict_correct"] == 1)
        present.append(outcome.components[f"found/{task['include'][0]['class']}"] >= 1)
    return np.array(strict), np.array(present)
