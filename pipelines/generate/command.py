"""`assay generate`: read the planners' instructions, make an image for each, and have it judged where that is asked."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from assay.config import load_config
from assay.files import digest_folder
from generators.flux2_klein import BASE_STEPS, DISTILLED_STEPS, is_distilled, locate_checkpoint
from generators.precision import resolved
from pipelines.engine.job import Job, run_job
from pipelines.engine.stage import Stage
from pipelines.generate.image_worker import LoadImageWorker, check_images
from pipelines.generate.plan import SCORE_STAGE, SCORER, STAGE, plan_scores, plan_units
from pipelines.generate.records import planning_models, read_records
from pipelines.generate.score_worker import CONCURRENCY, LoadSpatialScoreWorker
from pipelines.generate.settings import GenerateSettings
from pipelines.generate.spatial_scores import FILE as SCORES
from pipelines.generate.spatial_scores import in_words
from pipelines.generate.statistics import JOB, write_statistics
from pipelines.reward_service import ServiceAddress

MODEL_FILES = ("**/*.safetensors", "**/*.json", "**/*.txt", "**/*.jinja")


def generate(config: Path | None, overrides: Sequence[str]) -> int:
    """Run `assay generate`; 0 if every sample is done, 1 if some failed, or have no score that was asked for.

    Raises:
        AssayError: settings, records or checkpoint are wrong, no service answers, or the run cannot go on.
    """
    settings = load_config(GenerateSettings, config, overrides)
    gpus_seen = torch.cuda.device_count()
    dtype = resolved(settings.dtype, on_gpu=settings.on_gpus(gpus_seen))
    settings = settings.model_copy(update={"dtype": dtype})
    root = settings.predicted_instructions_root
    names = planning_models(root) if settings.planning_model is None else [settings.planning_model]
    records = {name: read_records(root, name, with_relations=settings.score is not None) for name in names}
    service = ServiceAddress(settings.targets, settings.deadline_s, settings.tls_files)
    fingerprint = None if settings.score is None else service.fingerprints([SCORER])[SCORER]
    checkpoint = locate_checkpoint(settings.flux_ckpt)
    for warning in step_warnings(settings, distilled=is_distilled(checkpoint)):
        print(f"assay: warning: {warning}", file=sys.stderr)
    digest = digest_folder(checkpoint, MODEL_FILES)
    limit = None if settings.max_samples == -1 else settings.max_samples
    images = {name: plan_units(records[name], settings, name, digest) for name in names}
    units = [unit for name in names for unit in images[name]]
    if fingerprint is not None:  # all images first, so that the generator is loaded once
        units += [unit for name in names for unit in plan_scores(records[name], images[name], fingerprint)]
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
    stages = {
        STAGE: Stage(STAGE, load, check_images),
        SCORE_STAGE: Stage(SCORE_STAGE, LoadSpatialScoreWorker(service), concurrency=CONCURRENCY),
    }
    scored = [] if fingerprint is None else list(variants)
    job = Job(JOB, units, stages, variants, lambda ledger: write_statistics(ledger, scored), limit)
    report = run_job(job, settings, settings.output_root, gpus_seen)
    print(report.sentence(settings.output_root))
    unscored = print_scores(settings.output_root, scored)
    return 0 if report.complete and not unscored else 1


def print_scores(root: Path, variants: Iterable[str]) -> int:
    """Print a line a variant, and return how many images have no score that should have one."""
    unscored = 0
    for variant in variants:
        scores = json.loads((root / variant / SCORES).read_text())
        print(f"{variant}: {in_words(scores)}")
        unscored += scores["views"]["unscored"]
    return unscored


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
