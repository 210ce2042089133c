"""Units of an evaluation: a prompt's images (stage `images`, unless they are there already), and their scores."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.files import digest_file
from pipelines.engine.unit import Unit
from pipelines.evaluate import image_worker, score_worker
from pipelines.evaluate.image_folder import PromptImages
from pipelines.evaluate.prompts import PromptLine
from pipelines.evaluate.settings import EvaluateSettings
from pipelines.pipeline_arguments import pipeline_arguments

VARIANT = "geneval"


def plan_generated(
    lines: Sequence[PromptLine], settings: EvaluateSettings, model_digest: str, fingerprint: str
) -> list[Unit]:
    """Two units a line: all images first, so that the model is loaded once."""
    images = [_images(line, settings, model_digest) for line in lines]
    scores = [_scores(line, settings, fingerprint, {}, {}, (unit,)) for line, unit in zip(lines, images, strict=True)]
    return [*images, *scores]


def plan_given(prompts: Sequence[PromptImages], settings: EvaluateSettings, fingerprint: str) -> list[Unit]:
    """A unit a prompt whose images are there already; their digests are part of its hash."""
    units = []
    for given in prompts:
        files = [path.resolve() for path in given.files]
        shown = [os.path.relpath(path, settings.output.resolve()) for path in files]  # results name the images so
        inputs = {"digests": [_digest_if_readable(path) for path in files], "shown": shown}
        units.append(_scores(given.line, settings, fingerprint, inputs, {"images": [str(p) for p in files]}, ()))
    return units


def _images(line: PromptLine, settings: EvaluateSettings, model_digest: str) -> Unit:
    inputs = {
        "metadata": line.metadata,
        "model": model_digest,
        "num_images": settings.num_images,
        "seed": settings.seed,
        "dtype": settings.dtype,
        **pipeline_arguments(settings, settings.num_steps),
    }
    return _unit(line, image_worker.STAGE, "images", inputs, {}, ())


def _scores(
    line: PromptLine,
    settings: EvaluateSettings,
    fingerprint: str,
    inputs: dict[str, Any],
    locations: dict[str, Any],
    needs: tuple[Unit, ...],
) -> Unit:
    judged = {"index": line.index, "metadata": line.metadata, "scorer": settings.scorer, "fingerprint": fingerprint}
    return _unit(line, score_worker.STAGE, "scores", {**judged, **inputs}, {"images": [], **locations}, needs)


def _unit(
    line: PromptLine,
    stage: str,
    folder: str,
    inputs: dict[str, Any],
    locations: dict[str, Any],
    needs: tuple[Unit, ...],
) -> Unit:
    return Unit(
        item=_name(line),
        variant=VARIANT,
        stage=stage,
        folder=f"{folder}/{_name(line)}",
        inputs=inputs,
        locations={"problem": line.problem, "where": line.where, **locations},
        needs=needs,
    )


def _digest_if_readable(path: Path) -> str | None:
    try:
        return digest_file(path)
    except OSError:  # the unit says so when it comes to it
        return None


def _name(line: PromptLine) -> str:
    return f"{line.index:05d}"
