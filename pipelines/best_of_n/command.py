"""`assay best-of-n`: draw N candidates for each image and keep the one that a verifier takes for the best."""

from collections.abc import Sequence
from pathlib import Path

import torch

from assay.config import load_config
from assay.errors import ConfigError
from generators.precision import resolved
from generators.text_to_image import locate_model
from pipelines.best_of_n.plan import STAGE, plan_units
from pipelines.best_of_n.prompts import read_prompts
from pipelines.best_of_n.settings import BestOfNSettings
from pipelines.best_of_n.summary import JOB, write_summary
from pipelines.best_of_n.worker import LoadBestOfNWorker, check_is_showo_where_it_must_be, service_of
from pipelines.engine.job import Job, run_job
from pipelines.engine.stage import Stage
from pipelines.model_digest import digest_model


def best_of_n(config: Path | None, overrides: Sequence[str]) -> int:
    """Run `assay best-of-n`; 0 if every prompt has its images, 1 if some have none.

    Raises:
        AssayError: settings are wrong, no service answers, or the run cannot go on.
    """
    settings = load_config(BestOfNSettings, config, overrides)
    gpus_seen = torch.cuda.device_count()
    settings = settings.model_copy(update={"dtype": resolved(settings.dtype, on_gpu=settings.on_gpus(gpus_seen))})
    lines = read_prompts(settings.prompts_file, settings.metadata_file)
    model, lora = what_draws(settings)
    check_is_showo_where_it_must_be(settings, model)
    digest = digest_model(model, lora)
    units = plan_units(lines, settings, digest, _fingerprints(settings))
    stages = {STAGE: Stage(STAGE, LoadBestOfNWorker(settings, model, lora, digest))}
    limit = None if settings.max_prompts == -1 else settings.max_prompts
    job = Job(JOB, units, stages, {settings.variant: settings.variant}, write_summary, limit)
    report = run_job(job, settings, settings.outdir, gpus_seen)
    print(report.sentence(settings.outdir))
    print(f"score it: assay evaluate geneval --images {settings.outdir / settings.variant} --output ...")
    return 0 if report.complete else 1


def what_draws(settings: BestOfNSettings) -> tuple[str, str | None]:
    """The model's folder, and a LoRA for it: `dpo_model` is a whole model, or a LoRA for `model`.

    Raises:
        ConfigError: there is no such model.
    """
    if settings.dpo_model is not None:
        tuned = settings.dpo_models[settings.dpo_model]
        if not tuned.is_dir():
            raise ConfigError(f"dpo_models.{settings.dpo_model} = {tuned}: there is no such folder")
        if (tuned / "model_index.json").is_file():
            return str(tuned), None
        return str(locate_model(settings.model)), str(tuned)
    return str(locate_model(settings.model)), None


def _fingerprints(settings: BestOfNSettings) -> dict[str, str]:
    """Of the scorers that will be asked."""
    if (scorers := settings.verifier) is None:
        return {}
    asked = [scorers.outcome_scorer]
    if settings.reward_model == "parm":
        asked += [scorers.clarity_scorer, scorers.potential_scorer]
    return service_of(settings).fingerprints(asked)
