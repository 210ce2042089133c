"""`assay evaluate geneval`: make or take images, have them scored, and derive the official table."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from assay.config import load_config
from generators.precision import resolved
from generators.text_to_image import locate_model
from pipelines.engine.job import Job, run_job
from pipelines.engine.stage import Stage
from pipelines.engine.unit import Unit
from pipelines.evaluate import image_worker, score_worker
from pipelines.evaluate.image_folder import read_image_folder
from pipelines.evaluate.plan import plan_generated, plan_given
from pipelines.evaluate.prompts import read_prompt_lines
from pipelines.evaluate.results import read_results
from pipelines.evaluate.settings import EvaluateSettings
from pipelines.evaluate.summary import JOB, write_summary
from pipelines.model_digest import digest_model
from pipelines.pipeline_arguments import pipeline_arguments
from pipelines.reward_service import ServiceAddress


def evaluate_geneval(config: Path | None, overrides: Sequence[str]) -> int:
    """Run `assay evaluate geneval`; 0 if every image has a score, 1 if some have none.

    Raises:
        AssayError: settings are wrong, no service answers, or the run cannot go on.
    """
    settings = load_config(EvaluateSettings, config, overrides)
    gpus_seen = torch.cuda.device_count()
    dtype = resolved(settings.dtype, on_gpu=settings.on_gpus(gpus_seen))
    settings = settings.model_copy(update={"dtype": dtype, "model": locate_model(settings.model)})
    if settings.against is not None:
        read_results(settings.against / "results.jsonl")  # before anything is done
    service = ServiceAddress(settings.targets, settings.deadline_s, settings.tls_files)
    units = plan(settings, service.fingerprints([settings.scorer])[settings.scorer])
    stages = {
        image_worker.STAGE: Stage(image_worker.STAGE, _image_loader(settings)),
        score_worker.STAGE: Stage(
            score_worker.STAGE,
            score_worker.LoadScoreWorker(service, settings.scorer),
            concurrency=score_worker.CONCURRENCY,
        ),
    }
    limit = None if settings.max_prompts == -1 else settings.max_prompts
    job = Job(JOB, units, stages, {}, lambda ledger: write_summary(ledger, settings.against), limit)
    report = run_job(job, settings, settings.output, gpus_seen)
    print((settings.output / "table.md").read_text())
    print(report.sentence(settings.output))
    unscored = json.loads((settings.output / "summary.json").read_text())["unscored"]
    return 0 if report.complete and not unscored else 1


def plan(settings: EvaluateSettings, fingerprint: str) -> list[Unit]:
    """The evaluation's units."""
    if settings.images is not None:
        return plan_given(read_image_folder(settings.images), settings, fingerprint)
    return plan_generated(
        read_prompt_lines(settings.prompts), settings, digest_model(str(settings.model), settings.lora), fingerprint
    )


def _image_loader(settings: EvaluateSettings) -> image_worker.LoadPromptImageWorker:
    return image_worker.LoadPromptImageWorker(
        str(settings.model),
        settings.lora,
        pipeline_arguments(settings, settings.num_steps),
        settings.batch_size,
        settings.dtype,
    )
