"""`assay generate`: read the planners' instructions, and make an image for each."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from assay.config import load_config
from assay.files import digest_folder
from generators.flux2_klein import BASE_STEPS, DISTILLED_STEPS, is_distilled, locate_checkpoint
from generators.precision import resolved
from pipelines.engine.job import Job, run_job
from pipelines.engine.stage import Stage
from pipelines.generate.image_worker import LoadImageWorker, check_images
from pipelines.generate.plan import STAGE, plan_units
from pipelines.generate.records import planning_models, read_records
from pipelines.generate.settings import GenerateSettings
from pipelines.generate.statistics import JOB, write_statistics

MODEL_FILES = ("**/*.safetensors", "**/*.json", "**/*.txt", "**/*.jinja")


def generate(config: Path | None, overrides: Sequence[str]) -> int:
    """Run `assay generate`; 0 if every sample is done, 1 if some failed.

    Raises:
        AssayError: settings, records or checkpoint are wrong, or the run cannot go on.
    """
    settings = load_config(GenerateSettings, config, overrides)
    gpus_seen = torch.cuda.device_count()
    dtype = resolved(settings.dtype, on_gpu=settings.on_gpus(gpus_seen))
    settings = settings.model_copy(update={"dtype": dtype})
    root = settings.predicted_instructions_root
    names = planning_models(root) if settings.planning_model is None else [settings.planning_model]
    records = {name: read_records(root, name) for name in names}
    checkpoint = locate_checkpoint(settings.flux_ckpt)
    for warning in step_warnings(settings, distilled=is_distilled(checkpoint)):
        print(f"assay: warning: {warning}", file=sys.stderr)
    digest = digest_folder(checkpoint, MODEL_FILES)
    limit = None if settings.max_samples == -1 else settings.max_samples
    units = [unit for name in names for unit in plan_units(records[name], settings, name, digest)]
    load = LoadImageWorker(
        checkpoint.resolve(),
        settings.num_inference_steps,
        settings.height,
        settings.width,
        settings.guidance_scale,
        settings.batch_size,
        settings.dtype,
    )
    variants = {unit.variant: unit.variant for unit in units}
    job = Job(JOB, units, {STAGE: Stage(STAGE, load, check_images)}, variants, write_statistics, limit)
    report = run_job(job, settings, settings.output_root, gpus_seen)
    print(report.sentence(settings.output_root))
    return 0 if report.complete else 1


def step_warnings(settings: GenerateSettings, *, distilled: bool) -> list[str]:
    """What the number of steps costs on this kind of checkpoint, where another number fits it."""
    steps = settings.num_inference_steps
    if distilled and steps > DISTILLED_STEPS:
        return [
            f"num_inference_steps = {steps} on a distilled checkpoint, which is made for {DISTILLED_STEPS}: that costs "
            f"{steps / DISTILLED_STEPS:.0f} times as much; --num_inference_steps {DISTILLED_STEPS} fits"
        ]
    if not distilled and steps < BASE_STEPS:
        return [
            f"num_inference_steps = {steps} on a base checkpoint, which is made for {BASE_STEPS}: images will be less "
            f"finished; --num_inference_steps {BASE_STEPS} fits"
        ]
    return []
