"""The miniature's verifiers judge as their model card says: scenes, and pictures of Show-o, that no training saw."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from counted import HELD_OUT
from transformers import AutoModelForImageTextToText, AutoProcessor

from assay.outcomes import Scored
from assay.serving.scorer import Sample
from assay.tasks import GenEvalTask, OutcomeTask, PotentialTask
from generators.showo.pipeline import ShowoPipeline
from miniature.recipes.verifier import zero_shot_agreement
from pipelines.evaluate.prompts import read_prompt_lines
from services.geneval.service import build_scorers as build_geneval
from services.verifier.service import build_scorers as build_verifier

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "miniature" / "weights"


@pytest.fixture(scope="module")
def drawn() -> list[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """A task, the picture after two of twelve steps, and the finished one: a picture of each prompt."""
    pipeline = ShowoPipeline.from_pretrained(WEIGHTS / "showo")
    tasks = [line.metadata for line in read_prompt_lines(ROOT / "configs/pipelines/prompts/miniature_geneval.jsonl")]
    seeds = [torch.Generator().manual_seed(HELD_OUT + number) for number in range(len(tasks))]
    drawing = pipeline.start([task["prompt"] for task in tasks], seeds)
    early = None
    while not drawing.finished:
        step = drawing.step()
        if step.index == 1:
            early = pipeline.decode(step.codes)
    assert early is not None
    return list(zip(tasks, early, pipeline.decode(drawing.codes), strict=True))


@pytest.fixture(scope="module")
def labels(drawn: list[tuple[dict[str, Any], np.ndarray, np.ndarray]]) -> np.ndarray:
    """What GenEval says of the finished ones."""
    config = yaml.safe_load((ROOT / "configs/services/geneval.yaml").read_text())["scorer"]
    scorer = next(one for one in build_geneval(config) if one.info.name == "geneval")
    samples = [Sample("", (last,), task["prompt"], GenEvalTask.from_metadata(task)) for task, _, last in drawn]
    outcomes = scorer.score(samples)
    assert all(isinstance(outcome, Scored) for outcome in outcomes)
    return np.array([outcome.components["correct"] == 1 for outcome in outcomes if isinstance(outcome, Scored)])


def beliefs(scorer: str, samples: list[Sample]) -> np.ndarray:
    config = yaml.safe_load((ROOT / "configs/services/verifier.yaml").read_text())["scorer"]
    outcomes = next(one for one in build_verifier(config) if one.info.name == scorer).score(samples)
    return np.array([outcome.value if isinstance(outcome, Scored) else np.nan for outcome in outcomes])


def test_zero_shot_it_judges_clean_scenes() -> None:
    folder = WEIGHTS / "verifier_zero_shot"
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    found = zero_shot_agreement(model, AutoProcessor.from_pretrained(folder), 180)
    assert np.mean(list(found.values())) >= 0.85


def test_fine_tuned_it_agrees_with_geneval_on_new_pictures(drawn: Any, labels: np.ndarray) -> None:
    found = beliefs("orm", [Sample("", (last,), task["prompt"], OutcomeTask()) for task, _, last in drawn])
    assert 0.2 < labels.mean() < 0.6  # always saying no would be right no more often than that
    assert ((found >= 0.5) == labels).mean() >= 0.82  # 0.90 is expected, give or take 0.03 from picture to picture
    chosen, left = found[labels], found[~labels]
    assert (chosen[:, None] > left[None]).mean() >= 0.85  # the area under the curve


def test_it_tells_what_is_clear(drawn: Any) -> None:
    early, late = (
        beliefs(
            "parm-clarity",
            [Sample("", (pictures[which],), pictures[0]["prompt"], PotentialTask(step, 12)) for pictures in drawn],
        )
        for which, step in ((1, 2), (2, 12))
    )
    assert (early < 0.5).mean() >= 0.7
    assert (late >= 0.5).mean() >= 0.9
