"""`spatial_scores.json` of each (dataset, planning model, checkpoint): did the images show what they should, and
more so than the references that they were made from?

    <id>/scores.json        beside the images: each image's relation, the reference's judgement of it and its own
    spatial_scores.json     means before and after over the images that have both, and the change with its interval

Intervals are of a bootstrap that redraws samples, for images of one sample are not independent.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assay.files import write_whole
from pipelines.engine.ledger import Ledger, State
from pipelines.engine.status import Plan
from pipelines.engine.unit import PlannedUnit
from pipelines.evaluate.results import ImageResult
from pipelines.evaluate.statistics import Pair, compare
from pipelines.generate.plan import SCORE_STAGE, STAGE
from pipelines.generate.score_worker import FILE as SAMPLE_FILE
from pipelines.generate.score_worker import read_scores

FILE = "spatial_scores.json"


def write_spatial_scores(ledger: Ledger, plan: Plan) -> Path:
    """Derive a variant's file, and those beside its images, from the ledger."""
    images = [unit for unit in plan.units if unit.stage == STAGE]
    units = {unit.item: unit for unit in plan.units if unit.stage == SCORE_STAGE}
    judged = []
    for image in images:
        scores = _scores_if_done(ledger, image, units.get(image.item))
        beside = ledger.root / image.folder / SAMPLE_FILE
        if scores is not None:
            judged.append(scores)
            write_whole(beside, json.dumps(scores, indent=1) + "\n")
        else:
            beside.unlink(missing_ok=True)  # of another relation, or of another judge
    summary = {"samples": _samples(ledger, images, list(units.values()), len(judged)), **summarize(judged)}
    failures = [failure for unit in units.values() if (failure := ledger.failure(unit.name)) is not None]
    summary["failures"] += [{"id": one.item, "error": f"{one.error_class}: {one.message}"} for one in failures]
    path = ledger.root / plan.variant / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(summary, indent=1) + "\n")
    return path


def summarize(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers over samples' `scores.json`.

    Returns:
        `before` and `after`, means over the `pairs` images that have both values, None without any; `change`, [value,
        low, high]; how many got `better` and `worse`; numbers of `views`; `failures` of single pictures.
    """
    pairs = [
        Pair(_result(number, sample, view, "before"), _result(number, sample, view, "after"))
        for number, sample in enumerate(samples)
        for view in sample["views"]
        if _value(view, "before") is not None and _value(view, "after") is not None
    ]
    views = [view for sample in samples for view in sample["views"]]
    related = [view for view in views if view["relation"] is not None]
    compared = compare(pairs, "value")
    return {
        "before": _mean([pair.before.component("value") for pair in pairs]),
        "after": _mean([pair.after.component("value") for pair in pairs]),
        "change": compared["images"],
        **{name: compared[name] for name in ("better", "worse", "pairs")},
        "views": {
            "with_relation": len(related),
            "without_relation": len(views) - len(related),
            "without_reference": sum(view["before"] is None for view in related),
            "unscored": sum(
                any(view[when] and view[when]["error"] for when in ("before", "after")) for view in related
            ),
        },
        "failures": [failure for sample in samples for failure in _failures(sample)],
    }


def in_words(summary: dict[str, Any]) -> str:
    """One line, for people."""
    samples, views = summary["samples"], summary["views"]
    left = f"{samples['without_relation']} samples without a relation, {views['unscored']} images without a score"
    if summary["change"] is None:
        return f"nothing to compare; {left}"
    change, low, high = summary["change"]
    return (
        f"{summary['before']:.3f} before, {summary['after']:.3f} after, change {change:+.3f} [{low:+.3f}, {high:+.3f}] "
        f"over {summary['pairs']} images; {left}"
    )


def _scores_if_done(ledger: Ledger, image: PlannedUnit, unit: PlannedUnit | None) -> dict[str, Any] | None:
    """A sample's scores; None unless they and the images that they are of are there."""
    if unit is None or any(ledger.state(one) is not State.DONE for one in (image, unit)):
        return None
    return read_scores(ledger.root / unit.folder)


def _samples(
    ledger: Ledger, images: Sequence[PlannedUnit], units: Sequence[PlannedUnit], judged: int
) -> dict[str, int]:
    """How many samples are planned, tell a relation or none, and of those that do were judged or failed in that."""
    return {
        "planned": len(images),
        "with_relation": len(units),
        "without_relation": len(images) - len(units),
        "judged": judged,
        "failed": sum(ledger.state(unit) is State.FAILED for unit in units),
    }


def _failures(sample: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each picture that could not be judged, once for each relation."""
    found = {}
    for view in sample["views"]:
        for when, picture in (("before", "reference"), ("after", view["image"])):
            if view[when] and view[when]["error"]:
                found[picture, str(view["relation"])] = {
                    "id": sample["id"],
                    "picture": picture,
                    "error": view[when]["error"],
                }
    yield from found.values()


def _value(view: dict[str, Any], when: str) -> float | None:
    return view[when]["value"] if view[when] else None


def _result(number: int, sample: dict[str, Any], view: dict[str, Any], when: str) -> ImageResult:
    """In the form of which `assay evaluate` compares two sets; a sample is what it calls a prompt."""
    return ImageResult(
        filename=view["image"],
        index=number,
        sample=0,
        tag="spatial",
        prompt=str(sample["id"]),
        metadata={},
        components={"value": view[when]["value"]},
    )


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 6) if values else None
