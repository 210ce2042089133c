"""`assay spatial eval`: have the questions of a file answered by a spatial service, and measure the answers."""

import json
from collections.abc import Sequence
from pathlib import Path

from assay.config import load_config
from pipelines.engine.job import Job, run_job
from pipelines.engine.stage import Stage
from pipelines.reward_service import ServiceAddress
from pipelines.spatial_tasks.evaluation import ask_worker
from pipelines.spatial_tasks.evaluation.plan import plan_units
from pipelines.spatial_tasks.evaluation.rows import read_rows
from pipelines.spatial_tasks.evaluation.settings import EvalSettings
from pipelines.spatial_tasks.evaluation.summary import JOB, save_settings, table, write_summary


def spatial_eval(config: Path | None, overrides: Sequence[str]) -> int:
    """Run `assay spatial eval`; 0 if every row has a score, 1 if some have none.

    Raises:
        AssayError: settings are wrong, no service answers, or the run cannot go on.
    """
    return evaluate(load_config(EvalSettings, config, overrides))


def evaluate(settings: EvalSettings) -> int:
    """The same, with settings that have been read."""
    rows = read_rows(settings.data_json, settings.image_folder, compat=settings.compat, limit=settings.limit)
    service = ServiceAddress(settings.targets, settings.deadline_s, settings.tls_files)
    scorers = sorted({question.scorer for question in rows.questions})
    fingerprints = service.fingerprints(scorers) if scorers else {}
    units = plan_units(rows.questions, settings.batch_size, fingerprints)
    stage = Stage(ask_worker.STAGE, ask_worker.LoadAskWorker(service), concurrency=ask_worker.CONCURRENCY)
    save_settings(settings.folder, settings.data_json, rows, compat=settings.compat)
    report = run_job(Job(JOB, units, {stage.name: stage}, {}, write_summary), settings, settings.folder, 0)
    summary = json.loads(settings.output_json.read_text())
    print(table(summary))
    print(report.sentence(settings.folder))
    return 0 if report.complete and not summary["without_score"] and not rows.left_out else 1
