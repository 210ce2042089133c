"""`<name>/results.jsonl`, which `assay generate` reads, from what the ledger says is done."""

import json
from collections import Counter, defaultdict
from pathlib import Path

from assay.files import write_whole
from pipelines.engine.ledger import Ledger, State
from pipelines.engine.status import read_plans
from pipelines.engine.unit import PlannedUnit
from pipelines.generate.records import FILE as RESULTS
from pipelines.planning.planner import FILE

JOB = "plan"
#: What a record has of its question; `relation` only where the question tells one.
OF_THE_QUESTION = ("id", "dataset", "question", "image_paths", "relation")


def write_summary(ledger: Ledger) -> list[Path]:
    """Write each planning model's `results.jsonl`, of all datasets, and `summary.json`; return the files.

    A question that failed, or is not done yet, is in neither.
    """
    variants: dict[str, list[PlannedUnit]] = defaultdict(list)
    for plan in read_plans(ledger):
        if plan.job == JOB:
            for unit in plan.units:
                variants[unit.variant.partition("/")[0]].append(unit)
    paths = []
    for variant, units in variants.items():
        done = [unit for unit in units if ledger.state(unit) is State.DONE]
        rows = [_row(ledger, unit) for unit in done]
        numbers = Counter(len(row["instructions"]) for row in rows)
        summary = {
            "questions": {"planned": len(units), "done": len(done)},
            "without a list in the text": sum(not row["parsed"] for row in rows),
            "instructions": {str(number): numbers[number] for number in sorted(numbers)},
        }
        folder = ledger.root / variant
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RESULTS, "".join(json.dumps(row) + "\n" for row in rows))
        write_whole(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
        paths += [folder / RESULTS, folder / "summary.json"]
    return paths


def _row(ledger: Ledger, unit: PlannedUnit) -> dict:
    entry = ledger.entry(unit.folder)
    assert entry is not None
    known = {name: entry.inputs[name] for name in OF_THE_QUESTION if name in entry.inputs}
    return {**known, **json.loads((ledger.root / unit.folder / FILE).read_text())}
