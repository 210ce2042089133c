"""A question with its answer, in LLaVA's JSON form: absolute paths of pictures, no `<image>` in the text.

t1_multi    the marked reference and the query: where is the object?
t1_concat   both as one picture, the object given by a point
t2a_multi   those of t1_multi whose answer is that it cannot be seen
t2b_multi   a view and the same without the object: where is the difference?
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.spatial_tasks.building.concat_worker import concat_name
from pipelines.spatial_tasks.building.prompts import CORRESPONDENCE, DIFFERENCE, concatenated
from pipelines.spatial_tasks.building.settings import TaskSettings
from pipelines.spatial_tasks.building.view_facts import ViewFacts, pairs_of
from pipelines.spatial_tasks.points import Point, SideBySide, write_answer

#: Frame of a concatenated pair's answer, as rows name it.
WHOLE = "concat"


@dataclass(frozen=True)
class ObjectViews:
    """An object whose pictures are made.

    Args:
        split: `train` or `val`.
        scene, uid: whose.
        views: by number.
        marked: folder of the marked pictures.
        concatenated: folder of the concatenated ones.
    """

    split: str
    scene: str
    uid: str
    views: tuple[ViewFacts, ...]
    marked: Path
    concatenated: Path

    @property
    def name(self) -> str:
        return f"{self.scene}_uid{self.uid}"


def samples_of(one: ObjectViews, settings: TaskSettings) -> Iterator[dict[str, Any]]:
    """All questions about an object."""
    for reference, query in pairs_of(one.views, settings.mode, settings.anchor_k):
        # Without the object in the reference nothing is marked, and the question has no answer.
        if reference.point is not None or settings.compat:
            yield _correspondence(one, reference, query, "t1_multi", settings)
            if query.point is None:
                yield _correspondence(one, reference, query, "t2a_multi", settings)
        if reference.point is not None and settings.emit_concat:
            yield _concatenated(one, reference, reference.point, query, settings)
    for view in one.views:
        if view.inpainted is not None and view.point is not None:
            yield _difference(one, view, settings)


def unmarked_references(one: ObjectViews, settings: TaskSettings) -> int:
    """Pairs whose reference does not show the object."""
    return sum(reference.point is None for reference, _ in pairs_of(one.views, settings.mode, settings.anchor_k))


def _correspondence(
    one: ObjectViews, reference: ViewFacts, query: ViewFacts, task: str, settings: TaskSettings
) -> dict[str, Any]:
    images = [str(one.marked / reference.marked), query.original]
    row = _row(task, f"{one.name}_{_pair(reference, query)}", images, query.original, CORRESPONDENCE, query.point)
    return row if settings.compat else {**row, "mask": query.mask}


def _concatenated(
    one: ObjectViews, reference: ViewFacts, given: Point, query: ViewFacts, settings: TaskSettings
) -> dict[str, Any]:
    frame = SideBySide(reference.size, query.size)
    shown, answer = frame.from_left(given), query.point and frame.from_right(query.point)
    if settings.compat:
        shown, answer = Point(given.x * 0.5, given.y), query.point
    image = str(one.concatenated / concat_name(reference, query))
    name = f"{one.name}_{_pair(reference, query)}"
    row = _row("t1_concat", name, image, query.original, concatenated(shown), answer)
    return row if settings.compat else {**row, "mask": query.mask, "answer_frame": WHOLE}


def _difference(one: ObjectViews, view: ViewFacts, settings: TaskSettings) -> dict[str, Any]:
    assert view.inpainted is not None
    name = f"{one.name}_K{view.number:02d}{view.frame}"
    images = [view.original, view.inpainted]
    row = _row("t2b_multi", name, images, view.inpainted, DIFFERENCE, view.point)
    return row if settings.compat else {**row, "mask": view.mask}


def _row(
    task: str, name: str, image: str | list[str], query: str, question: str, answer: Point | None
) -> dict[str, Any]:
    return {
        "id": f"{task.upper()}_{name}",
        "task": task,
        "image": image,
        "query_original": query,
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": write_answer(answer)}],
    }


def _pair(reference: ViewFacts, query: ViewFacts) -> str:
    return f"A{reference.number:02d}{reference.frame}_B{query.number:02d}{query.frame}"
