"""`assay spatial build`: mark views, put pairs side by side, and write the questions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from assay.config import load_config
from pipelines.engine.job import Job, run_job
from pipelines.engine.stage import Stage
from pipelines.spatial_tasks.building import concat_worker, mark_worker
from pipelines.spatial_tasks.building.data_folder import read_data_folder
from pipelines.spatial_tasks.building.derivation import save_derivation
from pipelines.spatial_tasks.building.plan import plan_units
from pipelines.spatial_tasks.building.settings import BuildSettings
from pipelines.spatial_tasks.building.summary import JOB, REPORT, table, write_summary

SHOWN_PROBLEMS = 20


def spatial_build(config: Path | None, overrides: Sequence[str]) -> int:
    """Run `assay spatial build`; 0 if every object is done and nothing was the matter with its files, else 1.

    Raises:
        AssayError: settings are wrong, or the run cannot go on.
    """
    built = build(load_config(BuildSettings, config, overrides))
    return 0 if built.complete and not built.problems else 1


class Built(NamedTuple):
    """Whether every object is done, and what is the matter with how many files: their views are told and left out."""

    complete: bool
    problems: int


def build(settings: BuildSettings) -> Built:
    """The same, with settings that have been read."""
    objects = read_data_folder(settings.data_root, dilated=settings.use_dilated_mask)
    stages = {
        mark_worker.STAGE: Stage(mark_worker.STAGE, mark_worker.load_mark_worker),
        concat_worker.STAGE: Stage(concat_worker.STAGE, concat_worker.load_concat_worker),
    }
    save_derivation(settings)
    report = run_job(Job(JOB, plan_units(objects, settings), stages, {}, write_summary), settings, settings.out_dir, 0)
    found = json.loads((settings.out_dir / REPORT).read_text())
    print(table(found))
    for one in found["problems"][:SHOWN_PROBLEMS]:
        print(f"{one['object']}: {one['problem']}")
    if len(found["problems"]) > SHOWN_PROBLEMS:
        print(f"... and {len(found['problems']) - SHOWN_PROBLEMS} more in {settings.out_dir / REPORT}")
    print(report.sentence(settings.out_dir))
    return Built(report.complete, len(found["problems"]))
