"""`assay pipeline status DIR` and `assay pipeline summary DIR`: what the ledger of a batch job's folder says."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pipelines.best_of_n import summary as best_of_n
from pipelines.engine.ledger import Ledger
from pipelines.engine.status import open_ledger, read_plans, stage_statuses, table
from pipelines.evaluate import summary as evaluation
from pipelines.generate import statistics as generation
from pipelines.planning import summary as planning
from pipelines.spatial_tasks.building import summary as spatial_building
from pipelines.spatial_tasks.evaluation import summary as spatial_evaluation
from pipelines.verifier_data import summary as verifier_data

#: job, as its plan names it -> what derives its summary files
SUMMARIES: dict[str, Callable[[Ledger], list[Path]]] = {
    generation.JOB: generation.write_statistics,
    planning.JOB: planning.write_summary,
    evaluation.JOB: evaluation.write_summary,
    best_of_n.JOB: best_of_n.write_summary,
    verifier_data.JOB: verifier_data.write_summary,
    spatial_building.JOB: spatial_building.write_summary,
    spatial_evaluation.JOB: spatial_evaluation.write_summary,
}
SHOWN_FAILURES = 20


def status(folder: Path, as_json: bool) -> int:
    """Print the status; 1 if units have failed."""
    ledger = open_ledger(folder)
    statuses = stage_statuses(ledger)
    failures = [failure for status in statuses for failure in status.failures]
    if as_json:
        print(json.dumps([asdict(status) for status in statuses], indent=1))
        return 1 if failures else 0
    print(table(statuses))
    for failure in failures[:SHOWN_FAILURES]:
        where = f"{failure.variant} / {failure.item} / {failure.stage}"
        print(f"failed: {where}: {failure.error_class}: {failure.message} (log: {ledger.failures / failure.log})")
    if len(failures) > SHOWN_FAILURES:
        print(f"... and {len(failures) - SHOWN_FAILURES} more in {ledger.failures}")
    return 1 if failures else 0


def summary(folder: Path) -> int:
    """Write the summaries of all jobs in the folder, and print where they are."""
    ledger = open_ledger(folder)
    for job in sorted({plan.job for plan in read_plans(ledger)}):
        for path in SUMMARIES[job](ledger):
            print(path)
    return 0
