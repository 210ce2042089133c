"""`assay data verifier`: draw candidates, have them labelled, and write what verifiers learn from."""

from collections.abc import Sequence
from pathlib import Path

import torch

from assay.config import load_config
from assay.errors import ConfigError
from generators.model_index import read_model_index
from generators.precision import resolved
from generators.showo.pipeline import ShowoPipeline
from generators.text_to_image import locate_model
from pipelines.engine.job import Job, run_job
from pipelines.engine.stage import Stage
from pipelines.model_digest import digest_model
from pipelines.pipeline_arguments import pipeline_arguments
from pipelines.reward_service import ServiceAddress
from pipelines.verifier_data import draw_worker, label_worker
from pipelines.verifier_data.derivation import Derivation
from pipelines.verifier_data.plan import plan_units, read_prompts
from pipelines.verifier_data.settings import VerifierDataSettings
from pipelines.verifier_data.summary import JOB, write_summary


def verifier_data(config: Path | None, overrides: Sequence[str]) -> int:
    """Run `assay data verifier`; 0 if every prompt is drawn and labelled, 1 if some are not.

    Raises:
        AssayError: settings are wrong, no service answers, or the run cannot go on.
    """
    settings = load_config(VerifierDataSettings, config, overrides)
    gpus_seen = torch.cuda.device_count()
    dtype = resolved(settings.dtype, on_gpu=settings.on_gpus(gpus_seen))
    model = str(locate_model(settings.model))
    settings = settings.model_copy(update={"dtype": dtype, "model": model, "steps": steps_of(settings, model)})
    lines, excluded = read_prompts(settings.prompts, settings.exclude)
    if not lines:
        raise ConfigError(f"prompts = {settings.prompts}: all {excluded} prompts are in exclude")
    derivation = Derivation.of(settings, excluded)
    service = ServiceAddress(settings.targets, settings.deadline_s, settings.tls_files)
    fingerprint = service.fingerprints([settings.scorer])[settings.scorer]
    units = plan_units(lines, settings, digest_model(model, settings.lora), fingerprint)
    load = draw_worker.LoadDrawWorker(
        model,
        settings.lora,
        pipeline_arguments(settings, settings.num_steps),
        settings.temperature,
        settings.steps,
        settings.batch_size,
        settings.dtype,
    )
    stages = {
        draw_worker.STAGE: Stage(draw_worker.STAGE, load),
        label_worker.STAGE: Stage(
            label_worker.STAGE, label_worker.LoadLabelWorker(service), concurrency=label_worker.CONCURRENCY
        ),
    }
    derivation.save(settings.output)
    limit = None if settings.max_prompts == -1 else settings.max_prompts
    report = run_job(Job(JOB, units, stages, {}, write_summary, limit), settings, settings.output, gpus_seen)
    print(report.sentence(settings.output))
    return 0 if report.complete else 1


def steps_of(settings: VerifierDataSettings, model: str) -> tuple[int, ...] | str:
    """Which steps' pictures are kept: of Show-o those asked for, of others none.

    Raises:
        ConfigError: steps, or a temperature, are asked of another model.
    """
    name = read_model_index(model).get("_class_name")
    if name == ShowoPipeline.__name__:
        return settings.steps
    fields = settings.model_fields_set
    if ("steps" in fields and settings.steps) or settings.temperature is not None:
        field = "temperature" if settings.temperature is not None else "steps"
        raise ConfigError(
            f"{field} is Show-o's alone; model = {model!r} holds a {name}, of which only finished pictures can be had"
        )
    return ()
