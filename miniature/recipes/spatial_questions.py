"""Questions about one view or two of the small world, with their right answers: what a spatial judge is pretrained on.

Relations are asked as the spatial service asks them. Nothing is worded as the x3 tasks are, nor answered by
`NOT_VISIBLE`: a model that learns from these alone can point and compare, and meets those questions zero-shot.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assay.questions import IMAGE
from assay.spatial_questions import read_spatial_questions
from miniature.prompts import RELATIONS
from miniature.recipes.scene_questions import FAR_APART_PIXELS
from miniature.world import Scene, WorldObject
from miniature.x3_scenes import Camera, WideScene, mask_in_view

Mask = NDArray[np.bool_]
Turn = tuple[str, str]

NOWHERE = "nowhere"
NAME = ("What is tinted?", "Name the tinted thing.")
POINT_AT_TINTED = ("Point at the tinted thing.", "Where is the tint?")
POINT_AT_NAMED = ("Point at the {name}.", "Where is the {name}?")
SAME = ("Is it there in the other view?", "Does the other view have it?")
POINT_AT_SAME = ("Point at it in the other view.", "Where in the other view?")
GONE = ("What is gone?", "Name what is gone.")
POINT_AT_GONE = ("Point at what is gone.", "Where was it?")
#: Objects of a view that fewer pixels are left of are not asked for by name, and not said to be missing.
CLEAR_PIXELS = 40


@dataclass(frozen=True)
class Seen:
    """An object as a view has it.

    Args:
        item: in pixels of the view.
        mask: (64, 64).
    """

    item: WorldObject
    mask: Mask

    @property
    def name(self) -> str:
        return f"{self.item.color} {self.item.class_name}"


def texts() -> list[str]:
    """All that can be said, for a tokenizer."""
    asked = [*NAME, *POINT_AT_TINTED, *POINT_AT_NAMED, *SAME, *POINT_AT_SAME, *GONE, *POINT_AT_GONE, NOWHERE]
    return [*asked, *(template.text for template in read_spatial_questions().values())]


def look(scene: WideScene, camera: Camera) -> list[Seen]:
    """All objects of a scene of which anything is in view."""
    seen = [Seen(item := camera.see(one), mask_in_view(item)) for one in scene.objects]
    return [one for one in seen if one.mask.any()]


def ask_tinted(item: WorldObject, mask: Mask, others: list[Seen], rng: np.random.Generator) -> list[Turn]:
    """About one view in which an object is tinted.

    Args:
        item: the tinted object.
        mask: its pixels.
        others: all objects in view.
        rng: source of all randomness.
    """
    turns = [(_any(NAME, rng), f"{item.color} {item.class_name}"), (_any(POINT_AT_TINTED, rng), point_text(mask))]
    names = [one.name for one in others]
    clear = [one for one in others if names.count(one.name) == 1 and one.mask.sum() >= CLEAR_PIXELS]
    if clear:
        one = clear[rng.integers(len(clear))]
        turns.append((_any(POINT_AT_NAMED, rng).format(name=one.name), point_text(one.mask)))
    return turns


def ask_pair(item: WorldObject, mask: Mask, rng: np.random.Generator) -> list[Turn]:
    """About a view in which an object is tinted, and another view of the scene.

    Args:
        item: the tinted object.
        mask: its pixels in the other view; none where it is out of it.
        rng: source of all randomness.
    """
    there = bool(mask.any())
    return [
        (_any(NAME, rng), f"{item.color} {item.class_name}"),
        (_any(SAME, rng), "yes" if there else "no"),
        (_any(POINT_AT_SAME, rng), point_text(mask) if there else NOWHERE),
    ]


def ask_difference(item: WorldObject, mask: Mask, rng: np.random.Generator) -> list[Turn]:
    """About a view, and the same without an object."""
    return [(_any(GONE, rng), f"{item.color} {item.class_name}"), (_any(POINT_AT_GONE, rng), point_text(mask))]


def ask_relations(scene: Scene, number: int, rng: np.random.Generator) -> list[Turn]:
    """As the service asks, of objects that stand far enough apart; as often yes as no.

    Args:
        scene: of at least two objects.
        number: of questions.
        rng: source of all randomness.
    """
    template = read_spatial_questions()["relation"].text.replace(IMAGE, "").strip()
    turns: list[Turn] = []
    while len(turns) < number:
        first, second = (scene.objects[int(index)] for index in rng.choice(len(scene.objects), 2, replace=False))
        wants_yes = rng.random() < 0.5
        relation = str(rng.choice(RELATIONS))
        with_color = rng.random() < 0.5
        if _holds(scene, first, relation, second, with_color=with_color) == wants_yes:
            subject, reference = (_called(one, with_color=with_color) for one in (first, second))
            question = template.replace("{subject}", subject).replace("{relation}", relation)
            turns.append((question.replace("{reference}", reference), "yes" if wants_yes else "no"))
    return turns


def point_text(mask: Mask) -> str:
    """One point of a mask, as it is to be written: the middle of its box, or the pixel nearest to that."""
    rows, columns = np.nonzero(mask)
    x, y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
    if not mask[int(y), int(x)]:
        nearest = int(np.argmin((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2))
        x, y = columns[nearest] + 0.5, rows[nearest] + 0.5
    height, width = mask.shape
    return f"[({x / width:.3f}, {y / height:.3f})]"


def _holds(scene: Scene, first: WorldObject, relation: str, second: WorldObject, *, with_color: bool) -> bool | None:
    """Whether any objects so called stand so; None where that is a matter of a few pixels."""
    firsts, seconds = (
        [one for one in scene.objects if _called(one, with_color=with_color) == _called(item, with_color=with_color)]
        for item in (first, second)
    )
    gaps = [_gap(one, relation, other) for one in firsts for other in seconds if one is not other]
    if max(gaps) > FAR_APART_PIXELS:
        return True
    return False if max(gaps) < -FAR_APART_PIXELS / 2 else None


def _gap(item: WorldObject, relation: str, reference: WorldObject) -> float:
    """By how many pixels the centres stand as the relation says; below 0 the other way round."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = item.box, reference.box
    right, down = (x1 + x2 - u1 - u2) / 2, (y1 + y2 - v1 - v2) / 2
    return {"left of": -right, "right of": right, "above": -down, "below": down}[relation]


def _called(item: WorldObject, *, with_color: bool) -> str:
    return f"{item.color} {item.class_name}" if with_color else item.class_name


def _any(wordings: tuple[str, ...], rng: np.random.Generator) -> str:
    return str(rng.choice(wordings))
