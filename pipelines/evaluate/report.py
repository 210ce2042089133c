"""What people look at: the table, the plot of wanted against found counts, and the page with the pictures."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from assay.files import write_whole
from pipelines.evaluate.results import ImageResult
from pipelines.evaluate.statistics import Pair, confusion

#: Pictures shown of each kind; the numbers are of all.
SHOWN = 120
HERE = Path(__file__).parent


def table(summary: dict[str, Any]) -> str:
    """Markdown: every tag, overall, images, prompts, and exact counts."""
    rows = [(tag, estimate) for tag, estimate in summary["tags"].items()]
    rows += [(name, summary[name]) for name in ("overall", "images", "prompts")]
    unscored = f", {summary['unscored']} without a score" if summary["unscored"] else ""
    unscored += f"; {missing}" if (missing := missing_prompts(summary)) else ""
    lines = [
        f"| {summary['component']}, {summary['scored']} images{unscored} | share | 95 % interval |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {value:.3f} | {low:.3f} to {high:.3f} |" for name, (value, low, high) in _known(rows)]
    counting = summary["counting"]
    lines += [f"| exactly {count} | {share:.3f} | |" for count, share in counting["counts"].items()]
    lines += [f"| exact, {limits} objects | {share:.3f} | |" for limits, share in counting["ranges"].items()]
    return "\n".join(lines) + "\n"


def missing_prompts(summary: dict[str, Any]) -> str:
    """In words, how many prompts are in none of the numbers; empty where all are in."""
    prompts = summary["prompt_states"]
    if prompts["done"] == prompts["planned"]:
        return ""
    return f"NOT ALL PROMPTS: {prompts['done']} of {prompts['planned']}, {prompts['failed']} failed"


def comparison_table(comparison: dict[str, Any]) -> str:
    """Markdown: the change of each tag, of overall and of images."""
    head = f"| {comparison['component']}, {comparison['pairs']} pairs | change | 95 % interval |"
    rows = [*comparison["tags"].items(), ("overall", comparison["overall"]), ("images", comparison["images"])]
    lines = [f"| {name} | {value:+.3f} | {low:+.3f} to {high:+.3f} |" for name, (value, low, high) in _known(rows)]
    counts = f"{comparison['better']} images got better, {comparison['worse']} worse."
    return "\n".join([head, "|---|---|---|", *lines, "", counts]) + "\n"


def _known(rows: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(name, estimate) for name, estimate in rows if estimate is not None]


def save_confusion(results: Sequence[ImageResult], path: Path) -> bool:
    """Plot wanted against found counts of the counting images; False, and no plot, where there are none."""
    matrix = confusion(results)
    path.unlink(missing_ok=True)  # of an earlier run
    if not matrix.any():
        return False
    figure = Figure(figsize=(5.5, 5))
    axes = figure.subplots()
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, origin="lower", cmap="Blues", vmin=0, vmax=1)
    for (wanted, found), number in ((index, matrix[index]) for index in zip(*matrix.nonzero(), strict=True)):
        color = "white" if shares[wanted, found] > 0.5 else "black"
        axes.text(found, wanted, str(number), ha="center", va="center", color=color, fontsize=8)
    axes.set(xlabel="objects found", ylabel="objects wanted", title="counting images")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    return True


def save_page(
    path: Path,
    results: Sequence[ImageResult],
    summary: dict[str, Any],
    failures: Sequence[str],
    comparison: dict[str, Any] | None = None,
    pairs: Sequence[Pair] = (),
    against: Path | None = None,
) -> None:
    """Write `report.html`: numbers, and pictures by links, so it stays beside them. Changed pairs first, then wrong."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True)
    before_root = os.path.relpath(against.resolve(), path.parent.resolve()) if against else ""
    component = summary["component"]
    wrong = [result for result in results if result.is_scored and result.component(component) < 1]
    right = [result for result in results if result.is_scored and result.component(component) >= 1]
    page = environment.get_template("report.html.jinja").render(
        summary=summary,
        comparison=comparison,
        before_root=before_root,
        better=[pair for pair in pairs if pair.change(component) > 0],
        worse=[pair for pair in pairs if pair.change(component) < 0],
        wrong=wrong,
        right=right,
        unscored=[result for result in results if not result.is_scored],
        failures=failures,
        missing=missing_prompts(summary),
        has_plot=(path.parent / "confusion.png").exists(),
        shown=SHOWN,
    )
    write_whole(path, page)
