"""`results.jsonl` and all that is derived from it, from what the ledger says is done."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.files import write_whole
from pipelines.engine.ledger import Ledger, State
from pipelines.engine.status import read_plans
from pipelines.engine.unit import PlannedUnit
from pipelines.evaluate import report
from pipelines.evaluate.results import ImageResult, read_results, write_lines
from pipelines.evaluate.score_worker import FILE, STAGE
from pipelines.evaluate.statistics import compare, pair_up, summarize

JOB = "evaluate-geneval"


def write_summary(ledger: Ledger, against: Path | None = None) -> list[Path]:
    """Write `results.jsonl`, `summary.json`, `table.md`, `confusion.png` and `report.html`, and return them.

    Args:
        ledger: of an evaluation's folder.
        against: folder of an earlier evaluation to compare with; None keeps the comparison of the last summary.

    Raises:
        ConfigError: `against` holds no evaluation.
    """
    units = [unit for plan in read_plans(ledger) if plan.job == JOB for unit in plan.units]
    results = _results(ledger, [unit for unit in units if unit.stage == STAGE])
    failures = [failure.message for unit in units if (failure := ledger.failure(unit.name)) is not None]
    summary: dict[str, Any] = summarize(results)
    summary["failures"] = failures
    summary["prompt_states"] = _prompt_states(ledger, [unit for unit in units if unit.stage == STAGE])
    against = against or _compared_before(ledger.root)
    pairs, comparison = [], None
    if against is not None:
        pairs = pair_up(read_results(against / "results.jsonl"), results)
        summary["comparison"] = comparison = {"against": str(against), **compare(pairs)}
    root = ledger.root
    write_whole(root / "results.jsonl", write_lines(results))
    write_whole(root / "summary.json", json.dumps(summary, indent=1) + "\n")
    text = report.table(summary) + ("\n" + report.comparison_table(comparison) if comparison else "")
    write_whole(root / "table.md", text)
    names = ["results.jsonl", "summary.json", "table.md", "report.html"]
    names += ["confusion.png"] if report.save_confusion(results, root / "confusion.png") else []
    report.save_page(root / "report.html", results, summary, failures, comparison, pairs, against)
    return [root / name for name in names]


def _prompt_states(ledger: Ledger, units: Sequence[PlannedUnit]) -> dict[str, int]:
    """How many prompts are planned, done, and failed themselves or in what they need. The others are yet to be done."""
    done = sum(ledger.state(unit) is State.DONE for unit in units)
    failed = {unit.item for plan in read_plans(ledger) for unit in plan.units if ledger.state(unit) is State.FAILED}
    return {"planned": len(units), "done": done, "failed": len(failed)}


def _compared_before(root: Path) -> Path | None:
    try:
        return Path(json.loads((root / "summary.json").read_text())["comparison"]["against"])
    except (OSError, ValueError, KeyError):
        return None


def _results(ledger: Ledger, units: Sequence[PlannedUnit]) -> list[ImageResult]:
    return [
        ImageResult(**values)
        for unit in units
        if ledger.state(unit) is State.DONE
        for values in json.loads((ledger.root / unit.folder / FILE).read_text())
    ]
