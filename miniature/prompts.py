"""What is said of a scene: GenEval tasks and prompts over the small world's classes, and scenes that satisfy them.

A task is a `dict` in GenEval's own JSON form ({"tag", "include", "exclude"?, "prompt"}), so that every consumer of
GenEval files reads it. Prompts are GenEval's own wordings ("a photo of three apples").
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from miniature.glyphs import CLASSES, COLORS
from miniature.world import Scene, WorldObject, sample_scene

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
RELATIONS = ("left of", "right of", "above", "below")
# Share of each GenEval tag among captions; counting has the lion's share, since it is what the first trainer learns.
TAG_SHARES = {
    "single_object": 0.05,
    "two_object": 0.08,
    "counting": 0.67,
    "colors": 0.08,
    "position": 0.06,
    "color_attr": 0.06,
}
# Share of one, two, ... ten objects among counting captions.
COUNT_SHARES = (0.21, 0.21, 0.21, 0.21, 0.04, 0.03, 0.03, 0.02, 0.02, 0.02)

GenEvalMetadata = dict[str, Any]


@dataclass(frozen=True)
class CaptionedScene:
    """A scene with the GenEval task that it satisfies."""

    scene: Scene
    metadata: GenEvalMetadata


def counting_metadata(class_name: str, count: int) -> GenEvalMetadata:
    """GenEval's counting task: exactly `count` objects, told by include (at least) and exclude (not more)."""
    noun = class_name if count == 1 else f"{class_name}s"
    return {
        "tag": "counting",
        "include": [{"class": class_name, "count": count}],
        "exclude": [{"class": class_name, "count": count + 1}],
        "prompt": f"a photo of {NUMBER_WORDS[count]} {noun}",
    }


def sample_metadata(rng: np.random.Generator, tag: str | None = None) -> GenEvalMetadata:
    """Draw a task by `TAG_SHARES` and `COUNT_SHARES`, or of one tag."""
    tag = tag or str(rng.choice(list(TAG_SHARES), p=list(TAG_SHARES.values())))
    first, second = (str(name) for name in rng.choice(CLASSES, 2, replace=False))
    red, blue = (str(name) for name in rng.choice(list(COLORS), 2, replace=False))
    if tag == "counting":
        return counting_metadata(first, int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES)) + 1)
    if tag == "single_object":
        return _metadata(tag, [{"class": first}], _a(first))
    if tag == "two_object":
        return _metadata(tag, [{"class": first}, {"class": second}], f"{_a(first)} and {_a(second)}")
    if tag == "colors":
        return _metadata(tag, [{"class": first, "color": red}], _a(f"{red} {first}"))
    if tag == "color_attr":
        include = [{"class": first, "color": red}, {"class": second, "color": blue}]
        return _metadata(tag, include, f"{_a(f'{red} {first}')} and {_a(f'{blue} {second}')}")
    relation = str(rng.choice(RELATIONS))
    # GenEval names the reference first in `include`, and the placed object first in the prompt.
    placed: list[dict[str, Any]] = [{"class": first}, {"class": second, "position": [relation, 0]}]
    return _metadata(tag, placed, f"{_a(second)} {relation} {_a(first)}")


def scene_for(metadata: GenEvalMetadata, rng: np.random.Generator) -> Scene:
    """A tidy scene of just the objects that the task names, standing as it says; those of a clause share a colour."""
    wanted: list[tuple[str, str]] = []
    for clause in metadata["include"]:
        color = clause.get("color") or str(rng.choice(list(COLORS)))
        wanted += [(clause["class"], color)] * clause["count"]
    while True:
        scene = sample_scene(wanted, rng, tidy=True)
        if metadata["tag"] != "position" or _stands(scene, metadata["include"][1]["position"][0]):
            return scene


def sample_captioned_scene(rng: np.random.Generator, tag: str | None = None) -> CaptionedScene:
    """A task, of `tag` if that is given, and a scene that fulfils it."""
    metadata = sample_metadata(rng, tag)
    return CaptionedScene(scene_for(metadata, rng), metadata)


def vocabulary() -> list[str]:
    """Every word that a prompt of the world can hold, sorted."""
    words = {"a", "an", "photo", "of", "and", "object", "colored"}
    words |= set(NUMBER_WORDS) | set(COLORS) | set(CLASSES) | {f"{name}s" for name in CLASSES}
    return sorted(words | {word for relation in RELATIONS for word in relation.split()})


def _metadata(tag: str, include: list[dict[str, Any]], description: str) -> GenEvalMetadata:
    return {
        "tag": tag,
        "include": [{**clause, "count": 1} for clause in include],
        "prompt": f"a photo of {description}",
    }


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _stands(scene: Scene, relation: str) -> bool:
    """The second object stands clearly in `relation` to the first: at least twice as far along that axis as across."""
    reference, placed = (_centre(item) for item in scene.objects)
    right, down = placed[0] - reference[0], placed[1] - reference[1]
    along = {"left of": -right, "right of": right, "above": -down, "below": down}[relation]
    across = abs(down) if relation in ("left of", "right of") else abs(right)
    return along >= 16 and along >= 2 * across


def _centre(item: WorldObject) -> tuple[float, float]:
    x1, y1, x2, y2 = item.box
    return (x1 + x2) / 2, (y1 + y2) / 2
