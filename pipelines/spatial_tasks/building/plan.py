"""Two units a scene: its objects' marked views, and their concatenated pairs."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pipelines.engine.unit import Unit
from pipelines.spatial_tasks.building import concat_worker, mark_worker
from pipelines.spatial_tasks.building.data_folder import ObjectFolder, ViewFiles
from pipelines.spatial_tasks.building.settings import BuildSettings

VARIANT = "x3"


def plan_units(objects: Sequence[ObjectFolder], settings: BuildSettings) -> list[Unit]:
    """All scenes' marked views first. Of their files, name, size and time decide whether they are read again."""
    scenes = [list(group) for _, group in groupby(objects, key=lambda one: one.scene_folder)]
    marked = [_marked(group, settings) for group in scenes]
    if not settings.emit_concat:
        return marked
    return [*marked, *(_concatenated(unit, settings) for unit in marked)]


def _marked(objects: Sequence[ObjectFolder], settings: BuildSettings) -> Unit:
    first = objects[0]
    inputs = {
        "split": first.split,
        "scene": first.scene,
        "objects": {one.uid: [_inputs(view) for view in one.views] for one in objects},
        "problems": {one.uid: list(one.problems) for one in objects},
        "alpha": settings.alpha,
        "seed": settings.seed,
    }
    locations = {"objects": {one.uid: [_paths(view) for view in one.views] for one in objects}}
    item = first.scene_folder
    return Unit(item, VARIANT, mark_worker.STAGE, f"marked_abs/{item}", inputs, locations)


def _concatenated(marked: Unit, settings: BuildSettings) -> Unit:
    inputs = {"mode": settings.mode, "anchor_k": settings.anchor_k, "compat": settings.compat}
    return Unit(marked.item, VARIANT, concat_worker.STAGE, f"concat_abs/{marked.item}", inputs, {}, (marked,))


def _inputs(view: ViewFiles) -> list[Any]:
    return [[str(path.absolute()), *_state(path)] for path in view.files]


def _paths(view: ViewFiles) -> dict[str, Any]:
    return {
        "number": view.number,
        "frame": view.frame,
        "original": str(view.original.absolute()),
        "inpainted": str(view.inpainted.absolute()) if view.inpainted else None,
        "mask": str(view.mask.absolute()),
    }


def _state(path: Path) -> tuple[int, int]:
    """Size and time; of a link to nowhere zeros: the unit says so when it comes to it."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
