"""Marks the target in each view of a scene's objects: `uid_{uid}/01_{frame}_marked.png`. What is known of the views
then lies beside them in `views.json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.engine.stage import Workplace
from pipelines.engine.unit import Unit, stable_seed
from pipelines.spatial_tasks.building.view_facts import ObjectFacts, ViewFacts, save_facts
from pipelines.spatial_tasks.masks import (
    UNREADABLE,
    Mask,
    centre_of_box,
    read_mask,
    read_picture,
    size_of,
    target_point,
)

STAGE = "mark"
RED = (255, 0, 0)


class MarkWorker:
    """Has no model."""

    def run(self, unit: Unit, workplace: Workplace) -> None:
        """A view that cannot be read is left out, with the reason among the problems."""
        objects = {}
        for uid, views in unit.locations["objects"].items():
            objects[uid] = self._mark(views, uid, unit, workplace.folder / f"uid_{uid}")
            for problem in objects[uid].problems:
                workplace.log.warning("uid %s: %s", uid, problem)
        save_facts(workplace.folder, objects)

    def _mark(self, views: Sequence[Mapping[str, Any]], uid: str, unit: Unit, folder: Path) -> ObjectFacts:
        folder.mkdir()
        whole, problems = [], list(unit.inputs["problems"][uid])
        for view in views:
            try:
                whole.append(_do(view, uid, unit.inputs, folder, problems))
            except _ViewError as error:
                problems.append(f"view {view['number']:02d}: {error}; left out")
        return ObjectFacts(tuple(whole), tuple(problems))


class _ViewError(Exception):
    """The files of a view do not go together."""


def mark(picture: NDArray[np.uint8], mask: Mask, alpha: float) -> NDArray[np.uint8]:
    """Lay red over the masked pixels; fractions are cut off, as the reference does.

    Args:
        picture: (height, width, 3) RGB.
        mask: (height, width).
        alpha: opacity in [0, 1].
    """
    mixed = picture * (1 - alpha) + np.array(RED, dtype=np.uint8) * alpha
    return np.where(mask[..., None], mixed.astype(np.uint8), picture)


def _do(view: Mapping[str, Any], uid: str, inputs: Mapping[str, Any], folder: Path, problems: list[str]) -> ViewFacts:
    number, frame = view["number"], view["frame"]
    mask, picture = _read(read_mask, view["mask"]), _read(read_picture, view["original"])
    if size_of(mask) != size_of(picture):
        raise _ViewError(f"{view['mask']} is {size_of(mask)}, and {view['original']} is {size_of(picture)}")
    marked = f"{number:02d}_{frame}_marked.png"
    Image.fromarray(mark(picture, mask, inputs["alpha"])).save(folder / marked)
    seed = stable_seed("x3 point", inputs["seed"], inputs["scene"], uid, number, frame)
    return ViewFacts(
        number=number,
        frame=frame,
        original=view["original"],
        inpainted=_inpainted(view, picture, problems),
        mask=view["mask"],
        marked=marked,
        width=picture.shape[1],
        height=picture.shape[0],
        point=target_point(mask, lambda pixels: seed % pixels),
        candidates=0 if centre_of_box(mask) else int(mask.sum()),
    )


def _inpainted(view: Mapping[str, Any], picture: NDArray[np.uint8], problems: list[str]) -> str | None:
    """Its path, if it is there and goes with the view."""
    path: str | None = view["inpainted"]
    if path is None:
        return None
    try:
        size = size_of(_read(read_picture, path))
        if size != size_of(picture):
            raise _ViewError(f"{path} is {size}, and {view['original']} is {size_of(picture)}")
    except _ViewError as error:
        problems.append(f"view {view['number']:02d}: {error}; no difference is asked for")
        return None
    return path


def _read(read: Any, path: str) -> Any:
    try:
        return read(Path(path))
    except UNREADABLE as error:
        raise _ViewError(f"{path} cannot be read: {error}") from error


def load_mark_worker(device: str) -> MarkWorker:
    return MarkWorker()
