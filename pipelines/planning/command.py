"""`assay plan`: have a vision-language model write the instructions that `assay generate` draws from."""

from collections.abc import Sequence
from pathlib import Path

import torch

from assay.config import load_config
from assay.errors import ConfigError
from assay.serving.model_files import digest_model, locate_model
from assay.vision_language.config import OpenAiBlock
from pipelines.engine.job import Job, run_job
from pipelines.engine.stage import Stage
from pipelines.planning.plan import STAGE, image_root, plan_units
from pipelines.planning.planner import LoadPlanner, read_plan_template
from pipelines.planning.question_file import read_questions
from pipelines.planning.settings import Backend, PlanningSettings
from pipelines.planning.summary import JOB, write_summary


def plan(config: Path | None, overrides: Sequence[str]) -> int:
    """Run `assay plan`; 0 if every question has been asked, 1 if some failed.

    Raises:
        AssayError: settings, questions or model are wrong, or the run cannot go on.
    """
    settings = load_config(PlanningSettings, config, overrides)
    questions, template = read_questions(settings.questions), read_plan_template(settings.template)
    units = plan_units(questions, settings, template, _model(settings.backend))
    at_once = settings.backend.max_concurrency if isinstance(settings.backend, OpenAiBlock) else 1
    stage = Stage(STAGE, LoadPlanner(settings.backend, template), concurrency=at_once)
    name = settings.planning_model
    limit = None if settings.max_samples == -1 else settings.max_samples
    job = Job(JOB, units, {STAGE: stage}, {unit.variant: name for unit in units}, write_summary, limit)
    report = run_job(job, settings, settings.output_root, torch.cuda.device_count())
    print(report.sentence(settings.output_root))
    print(
        f"draw it: assay generate --planning_model {name} --predicted_instructions_root {settings.output_root} "
        f"--data_root {image_root(settings)}"
    )
    return 0 if report.complete else 1


def _model(backend: Backend) -> dict[str, str]:
    """What decides its texts, as far as it is known without loading it."""
    if isinstance(backend, OpenAiBlock):
        return {"model": backend.model, "weights": backend.weights, "extra": repr(sorted(backend.extra_body.items()))}
    parts = {"weights": digest_model(locate_model(backend.model, backend.revision)), "dtype": backend.dtype}
    parts["attention"] = str(backend.attention)
    if backend.adapter is not None:
        parts["adapter"] = digest_model(locate_model(backend.adapter))
    if backend.chat_template is not None:
        try:
            parts["chat_template"] = backend.chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"backend.chat_template = {str(backend.chat_template)!r} cannot be read: {error}"
            ) from error
    return parts
