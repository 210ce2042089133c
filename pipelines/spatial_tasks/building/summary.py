"""The files with the questions, and the report of what is missing, from what the ledger says is done.

t1_train_multi.json t1_val_multi.json           t1_train_concat.json t1_val_concat.json
t2a_train_multi.json t2a_val_multi.json         t2b_train_multi.json t2b_val_multi.json
build_report.json                               how many of what, and every file that is missing or cannot be read

Files of the train split about differences and missing objects are there only if they hold something.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from assay.files import write_whole
from pipelines.engine.ledger import Ledger, State
from pipelines.engine.status import read_plans
from pipelines.engine.unit import PlannedUnit
from pipelines.spatial_tasks.building import mark_worker
from pipelines.spatial_tasks.building.derivation import load_derivation
from pipelines.spatial_tasks.building.samples import ObjectViews, samples_of, unmarked_references
from pipelines.spatial_tasks.building.settings import TaskSettings
from pipelines.spatial_tasks.building.view_facts import ViewFacts, load_facts
from pipelines.spatial_tasks.masks import read_mask, target_point

JOB = "spatial-build"
REPORT = "build_report.json"
#: file -> (split, task); those of `OPTIONAL` are written only if they hold something.
FILES = {
    f"{task.partition('_')[0]}_{split}_{task.partition('_')[2]}.json": (split, task)
    for task in ("t1_multi", "t1_concat", "t2a_multi", "t2b_multi")
    for split in ("train", "val")
}
OPTIONAL = ("t2a_train_multi.json", "t2b_train_multi.json")


def write_summary(ledger: Ledger) -> list[Path]:
    """Write all files, and return them. In `compat`, the random points of one object depend on all before it: until
    all is done, nothing is written but the report.

    Raises:
        ConfigError: the folder does not say how they are derived.
    """
    settings = load_derivation(ledger.root)
    units = [unit for plan in read_plans(ledger) if plan.job == JOB for unit in plan.units]
    states = {unit.name: ledger.state(unit) for unit in units}
    objects, problems = _objects(ledger, units, states)
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    whole = all(state is State.DONE for state in states.values())
    if settings.compat:
        objects = _drawn_in_turn(objects, settings.seed) if whole else []
    for one in objects:
        for row in samples_of(one, settings):
            rows[one.split, row["task"]].append(row)
    written = _write(ledger.root, rows, settings) if whole or not settings.compat else []
    report = {
        "scenes": _counts(units, states, mark_worker.STAGE),
        "objects": len(objects),
        "views": sum(len(one.views) for one in objects),
        "pairs_without_the_object_in_the_reference": sum(unmarked_references(one, settings) for one in objects),
        "samples": {path.name: len(rows[FILES[path.name]]) for path in written},
        "not_visible": {path.name: _not_visible(rows[FILES[path.name]]) for path in written},
        "problems": problems,
    }
    write_whole(ledger.root / REPORT, json.dumps(report, indent=1) + "\n")
    return [*written, ledger.root / REPORT]


def _objects(
    ledger: Ledger, units: Sequence[PlannedUnit], states: dict[str, State]
) -> tuple[list[ObjectViews], list[dict[str, str]]]:
    """Those whose scene is done in all stages, in the data's order, and what is wrong with any."""
    done: dict[str, list[PlannedUnit]] = defaultdict(list)
    for unit in units:
        done[unit.item] += [unit] if states[unit.name] is State.DONE else []
    wanted = len({unit.stage for unit in units})
    objects, problems = [], []
    for item, parts in done.items():
        entry = next((ledger.entry(unit.folder) for unit in parts if unit.stage == mark_worker.STAGE), None)
        if entry is None:
            continue
        split, scene, marked = entry.inputs["split"], entry.inputs["scene"], ledger.root / "marked_abs" / item
        for uid, facts in load_facts(marked).items():
            name, concatenated = f"uid_{uid}", ledger.root / "concat_abs" / item / f"uid_{uid}"
            problems += [{"object": f"{item}/{name}", "problem": problem} for problem in facts.problems]
            if len(parts) == wanted:
                objects.append(ObjectViews(split, scene, uid, facts.views, marked / name, concatenated))
    return objects, problems


def _drawn_in_turn(objects: Sequence[ObjectViews], seed: int) -> list[ObjectViews]:
    """The same with the random points of one generator, that all objects and views share in their order."""
    generator = random.Random(seed)

    def drawn(view: ViewFacts) -> ViewFacts:
        if not view.candidates:
            return view
        return replace(view, point=target_point(read_mask(Path(view.mask)), generator.randrange))

    return [replace(one, views=tuple(drawn(view) for view in one.views)) for one in objects]


def _write(root: Path, rows: dict[tuple[str, str], list[dict[str, Any]]], settings: TaskSettings) -> list[Path]:
    written = []
    for name, key in FILES.items():
        path = root / name
        if (name in OPTIONAL and not rows[key]) or (key[1] == "t1_concat" and not settings.emit_concat):
            path.unlink(missing_ok=True)  # of an earlier build
            continue
        write_whole(path, json.dumps(rows[key], indent=2, ensure_ascii=False) + "\n")
        written.append(path)
    return written


def _counts(units: Sequence[PlannedUnit], states: dict[str, State], stage: str) -> dict[str, int]:
    counted = Counter(states[unit.name] for unit in units if unit.stage == stage)
    return {
        "planned": sum(counted.values()),
        "done": counted[State.DONE],
        "failed": counted[State.FAILED],
    }


def _not_visible(rows: Sequence[dict[str, Any]]) -> int:
    return sum(row["conversations"][1]["value"] == "NOT_VISIBLE" for row in rows)


def table(report: dict[str, Any]) -> str:
    """For people: how many questions each file holds, and what is wrong with the data."""
    lines = [
        f"{name:24}{number:8} questions, {report['not_visible'][name]} not visible"
        for name, number in report["samples"].items()
    ]
    left_out = report["pairs_without_the_object_in_the_reference"]
    lines += [f"{left_out} pairs whose reference does not show the object"] if left_out else []
    problems = report["problems"]
    lines += [f"{len(problems)} PROBLEMS of {len({one['object'] for one in problems})} objects"] if problems else []
    return "\n".join(lines)
