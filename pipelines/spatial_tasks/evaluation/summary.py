"""The numbers and the answers, as `<name>.json`, and the page, `<name>.html`, beside the folder `<name>` whose ledger
says what is done."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.errors import ConfigError
from assay.files import write_whole
from pipelines.engine.ledger import Ledger, State
from pipelines.engine.status import read_plans
from pipelines.engine.unit import PlannedUnit
from pipelines.spatial_tasks.evaluation.ask_worker import FILE
from pipelines.spatial_tasks.evaluation.metrics import named_metrics, robust_metrics
from pipelines.spatial_tasks.evaluation.page import save_page
from pipelines.spatial_tasks.evaluation.reference import metrics_as_reference
from pipelines.spatial_tasks.evaluation.results import Result, from_json
from pipelines.spatial_tasks.evaluation.rows import Rows

JOB = "spatial-eval"
SETTINGS = "evaluation.json"
SHOWN_FAILURES = 5


def save_settings(root: Path, data_json: Path, rows: Rows, *, compat: bool) -> None:
    """Keep what decides the numbers and is not the ledger's: `assay pipeline summary` derives the same again."""
    root.mkdir(parents=True, exist_ok=True)
    asked = {"data_json": str(data_json), "questions": len(rows.questions), "compat": compat}
    values = {**asked, "rows_left_out": rows.left_out}
    write_whole(root / SETTINGS, json.dumps(values, indent=1) + "\n")


def write_summary(ledger: Ledger) -> list[Path]:
    """Write both files, and return them.

    Raises:
        ConfigError: the folder does not say what was asked.
    """
    root = ledger.root
    try:
        settings = json.loads((root / SETTINGS).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{root / SETTINGS} cannot be read: {error}; run `assay spatial eval` again") from error
    # A run without questions plans nothing, and leaves the plan of the one before.
    plans = read_plans(ledger) if settings["questions"] else []
    units = [unit for plan in plans if plan.job == JOB for unit in plan.units]
    results = _results(ledger, units)
    summary = summarize(results, compat=settings["compat"])
    summary = {"rows_left_out": [], **settings, "failures": _failures(ledger, units), **summary}
    output, page = (root.with_name(f"{root.name}{ending}") for ending in (".json", ".html"))
    rows = [one.to_reference_row() if settings["compat"] else one.to_row() for one in results]
    write_whole(output, json.dumps({**summary, "results": rows}, indent=1, ensure_ascii=False) + "\n")
    save_page(page, root.name, summary, results)
    return [output, page]


def summarize(results: Sequence[Result], *, compat: bool) -> dict[str, Any]:
    """All numbers over the answers there are.

    Args:
        results: with a score or without.
        compat: `metrics` as the reference has them.
    """
    judged = [one.judged for one in results if one.judged is not None]
    reference = [one.reference for one in results if one.reference is not None]
    return {
        "metrics": metrics_as_reference(reference) if compat else named_metrics(judged),
        "robust": robust_metrics(judged),
        "answered": len(judged),
        "without_score": sum(one.error is not None for one in results),
        "masks": dict(Counter(_kind(one.mask) for one in results if one.judged)),
        "target_not_as_mask": sum(not one.target_is_on_mask for one in results),
        "service_judged_otherwise": sum(
            one.judged is not None and one.judged.hit != one.service_hit for one in results
        ),
    }


def table(summary: dict[str, Any]) -> str:
    """For people: the protocol's numbers and the robust ones, and the first of what failed.

    Args:
        summary: with its `results`.
    """
    rows = [(name, _shown(value), "") for name, value in summary["metrics"].items()]
    rows += [(name, _shown(one["value"]), f"of {one['n']}") for name, one in summary["robust"].items()]
    lines = [f"{name:24}{value:>10}  {of}".rstrip() for name, value, of in rows]
    for name, text in WARNINGS.items():
        if summary[name]:
            lines.append(f"{summary[name]} {text}")
        if name == "without_score":
            lines += _unscored(summary)
    if (left := summary["questions"] - summary["answered"] - summary["without_score"]) > 0:
        lines.append(f"NOT ALL QUESTIONS: {left} of {summary['questions']} are yet to be answered")
    left_out = summary["rows_left_out"]
    lines += [f"{len(left_out)} ROWS that ask nothing which can be understood"] if left_out else []
    lines += left_out[:SHOWN_FAILURES]
    lines += [f"failed: {failure}" for failure in summary["failures"][:SHOWN_FAILURES]]
    return "\n".join(lines)


def _unscored(summary: dict[str, Any]) -> list[str]:
    """The first questions without a score, and why they have none."""
    failed = [f"  {row['id']}: {row['error']}" for row in summary["results"] if row["error"]]
    more = len(failed) - SHOWN_FAILURES
    return [*failed[:SHOWN_FAILURES], *([f"  ... and {more} more, in results"] if more > 0 else [])]


#: key of a summary -> what it means where it is not 0
WARNINGS = {
    "without_score": "questions WITHOUT A SCORE, in none of the numbers",
    "target_not_as_mask": "questions whose answer and mask do not agree on whether there is something to point at",
    "service_judged_otherwise": "answers that the service itself takes for the other of hit and miss",
}


def _shown(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def _results(ledger: Ledger, units: Sequence[PlannedUnit]) -> list[Result]:
    """Of all units that are done, in the file's order."""
    read = [
        from_json(values)
        for unit in units
        if ledger.state(unit) is State.DONE
        for values in json.loads((ledger.root / unit.folder / FILE).read_text())
    ]
    return sorted(read, key=lambda one: one.number)


def _failures(ledger: Ledger, units: Sequence[PlannedUnit]) -> list[str]:
    failed = [unit.name for unit in units if ledger.state(unit) is State.FAILED]
    return [failure.message for name in failed if (failure := ledger.failure(name)) is not None]


def _kind(mask: str | None) -> str:
    return "dilated" if mask and mask.endswith("_mask_dialated.png") else "tight"
