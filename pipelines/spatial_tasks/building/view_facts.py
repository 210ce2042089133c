"""What is known of a view once its files have been read: `views.json` beside a scene's marked pictures."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.spatial_tasks.points import Point, Size

FILE = "views.json"


@dataclass(frozen=True)
class ViewFacts:
    """A view whose files are whole.

    Args:
        number: from 1.
        frame: its name.
        original: absolute path, as the three that follow.
        inpainted: None if there is none.
        mask: which of the two kinds was taken.
        marked: name of the picture with the mark.
        width, height: of the picture in pixels.
        point: on the object; None where it is not visible.
        candidates: pixels that the point was drawn from; 0 where the middle of the mask's box is the point.
    """

    number: int
    frame: str
    original: str
    inpainted: str | None
    mask: str
    marked: str
    width: int
    height: int
    point: Point | None
    candidates: int

    @property
    def size(self) -> Size:
        return Size(self.width, self.height)


@dataclass(frozen=True)
class ObjectFacts:
    """The whole views of an object, by number, and what is wrong with others, in words."""

    views: tuple[ViewFacts, ...]
    problems: tuple[str, ...]


def save_facts(folder: Path, objects: Mapping[str, ObjectFacts]) -> None:
    """Write a scene's, by uid."""
    (folder / FILE).write_text(json.dumps({uid: asdict(facts) for uid, facts in objects.items()}, indent=1) + "\n")


def load_facts(folder: Path) -> dict[str, ObjectFacts]:
    """Read a scene's, by uid."""
    return {
        uid: ObjectFacts(tuple(_view(values) for values in facts["views"]), tuple(facts["problems"]))
        for uid, facts in json.loads((folder / FILE).read_text()).items()
    }


def _view(values: dict[str, Any]) -> ViewFacts:
    point = values.pop("point")
    return ViewFacts(**values, point=None if point is None else Point(*point))


def pairs_of(views: tuple[ViewFacts, ...], mode: str, anchor: int) -> list[tuple[ViewFacts, ViewFacts]]:
    """(reference, query) of an object, whether or not the reference shows it.

    Args:
        views: of the object.
        mode: `anchor` or `allpairs`.
        anchor: number of the reference view, for `anchor`.
    """
    references = [view for view in views if mode == "allpairs" or view.number == anchor]
    return [(one, other) for one in references for other in views if other.number != one.number]
