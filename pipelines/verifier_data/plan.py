"""Units of the data: a prompt's candidates (stage `draw`), and their labels (stage `label`).

Labels are units of their own, so that a service that goes away, or another one, costs no picture.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipelines.engine.unit import Unit
from pipelines.evaluate.prompts import PromptLine, read_prompt_lines
from pipelines.pipeline_arguments import pipeline_arguments
from pipelines.verifier_data import draw_worker, label_worker
from pipelines.verifier_data.further_prompts import most_alike
from pipelines.verifier_data.held_out import words_of
from pipelines.verifier_data.settings import VerifierDataSettings

VARIANT = "verifier-data"


def read_prompts(path: Path, exclude: Iterable[Path]) -> tuple[list[PromptLine], int]:
    """The prompts to draw, numbered as in their file, and how many were left out since `exclude` has them, too.

    Prompts are compared word by word, without regard to case and the space between.

    Raises:
        ConfigError: a file is missing or empty.
    """
    taken = {words_of(line.prompt) for file in exclude for line in read_prompt_lines(file)}
    lines = read_prompt_lines(path)
    kept = [line for line in lines if line.problem is not None or words_of(line.prompt) not in taken]
    return kept, len(lines) - len(kept)


def plan_units(
    lines: Sequence[PromptLine], settings: VerifierDataSettings, model_digest: str, fingerprint: str
) -> list[Unit]:
    """Two a prompt: all pictures first, so that the model is loaded once.

    Args:
        lines: the prompts.
        settings: of the run.
        model_digest: of the weights that draw.
        fingerprint: of the scorer that labels.
    """
    drawn = [_drawing(line, settings, model_digest) for line in lines]
    judged = {
        "scorer": settings.scorer,
        "component": settings.component,
        "abstained": settings.abstained,
        "fingerprint": fingerprint,
    }
    labelled = []
    for line, unit in zip(lines, drawn, strict=True):
        tasks = {"metadata": line.metadata, "further": most_alike(line, lines, settings.further_prompts)}
        labelled.append(_unit(line, label_worker.STAGE, "labels", {**tasks, **judged}, (unit,)))
    return [*drawn, *labelled]


def _drawing(line: PromptLine, settings: VerifierDataSettings, model_digest: str) -> Unit:
    inputs = {
        "metadata": line.metadata,
        "model": model_digest,
        "dtype": settings.dtype,
        "num_candidates": settings.num_candidates,
        "steps": settings.steps,
        "temperature": settings.temperature,
        "seed": settings.seed,
        **pipeline_arguments(settings, settings.num_steps),
    }
    return _unit(line, draw_worker.STAGE, "images", inputs, ())


def _unit(line: PromptLine, stage: str, folder: str, inputs: dict[str, Any], needs: tuple[Unit, ...]) -> Unit:
    item = f"{line.index:05d}"
    return Unit(item, VARIANT, stage, f"{folder}/{item}", inputs, {"problem": line.problem}, needs)
