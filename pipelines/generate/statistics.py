"""`stats.json` of each (dataset, planning model, checkpoint): how many samples have 0, 1, 2, ... images.

Where images were judged, `spatial_scores.json` beside it and each sample's `scores.json`, too.
"""

import json
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

from assay.files import write_whole
from pipelines.engine.ledger import Ledger, State
from pipelines.engine.status import read_plans
from pipelines.engine.unit import PlannedUnit
from pipelines.generate.plan import STAGE
from pipelines.generate.spatial_scores import write_spatial_scores

JOB = "generate"


def write_statistics(ledger: Ledger, scored: Collection[str] = ()) -> list[Path]:
    """Derive every variant's files from the ledger. Samples that failed or are not done yet are in no `stats.json`.

    Args:
        ledger: of an output folder.
        scored: variants whose images were to be judged, also those where no record tells a relation.
    """
    paths = []
    for plan in read_plans(ledger):
        if plan.job != JOB:
            continue
        path = ledger.root / plan.variant / "stats.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        images = [unit for unit in plan.units if unit.stage == STAGE]
        write_whole(path, json.dumps(statistics(ledger, images), indent=2) + "\n")
        paths.append(path)
        if plan.variant in scored or len(images) < len(plan.units):
            paths.append(write_spatial_scores(ledger, plan))
    return paths


def statistics(ledger: Ledger, units: list[PlannedUnit]) -> dict[str, Any]:
    """Number, ratio and ids of the samples with N images, for each N that occurs; ids in the plan's order."""
    ids: dict[int, list[int | str]] = defaultdict(list)
    for unit in units:
        entry = ledger.entry(unit.folder)
        if entry is not None and ledger.state(unit) is State.DONE:
            ids[len(entry.outputs)].append(entry.inputs["id"])
    total = sum(map(len, ids.values()))
    summary: dict[str, float] = {}
    for number in sorted(ids):
        summary[f"number of {number} generation"] = len(ids[number])
        summary[f"ratio of {number} generation"] = len(ids[number]) / total
    return {"summary": summary, **{f"{number} generation": ids[number] for number in sorted(ids)}}
