"""What was chosen, asked, and saved, from what the ledger says is done: `<variant>/summary.json`."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.files import write_whole
from pipelines.best_of_n.worker import FILE
from pipelines.engine.ledger import Ledger, State
from pipelines.engine.status import read_plans
from pipelines.engine.unit import PlannedUnit

JOB = "best-of-n"


def write_summary(ledger: Ledger) -> list[Path]:
    """Write the summary of each variant, and return the files."""
    variants: dict[str, list[PlannedUnit]] = defaultdict(list)
    for plan in read_plans(ledger):
        if plan.job == JOB:
            for unit in plan.units:
                variants[unit.variant].append(unit)
    paths = []
    for variant, units in variants.items():
        paths.append(ledger.root / variant / "summary.json")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        write_whole(paths[-1], json.dumps(summarize(ledger, units), indent=1) + "\n")
    return paths


def summarize(ledger: Ledger, units: Sequence[PlannedUnit]) -> dict[str, Any]:
    """Numbers over all prompts of a variant that are done.

    `steps_saved` is the share of the sampler's steps that was not taken, of those that all candidates would have taken
    to their end. None where the number of steps is the model's own, and it does not say.
    """
    states = Counter(ledger.state(unit) for unit in units)
    records = [
        json.loads((ledger.root / unit.folder / FILE).read_text()) for unit in units if ledger.state(unit) is State.DONE
    ]
    images = [image for record in records for image in record["images"]]
    steps, of_all = (sum(image[name] for image in images) for name in ("steps", "steps_of_all"))
    return {
        "prompts": {"planned": len(units), "done": states[State.DONE], "failed": states[State.FAILED]},
        "images": len(images),
        "asked": dict(sum((Counter(record["asked"]) for record in records), Counter())),
        "steps": steps,
        "steps_saved": round(1 - steps / of_all, 4) if of_all else None,
    }
