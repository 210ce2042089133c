"""Edits of the small world's pictures: a source scene, an instruction in words, and exactly what should come of it.

Four operations: add an object, remove, recolour or move one. What the instruction does not name stays as it is to the
pixel. A GenEval task goes with every edit and judges the whole result: which objects, how many of each, their colours.
Scenes are tidy ones. Nine places have names; each is the middle of one third by one third of the lattice, so that an
object blocks exactly one of them. Where an instruction says no place, any free one is right; samples take the first
free one in the order of `PLACES`, so that a small model has one answer to learn.

    python -m miniature.editing --root runs/edits --samples 40

writes sources and instructions in the layout that `assay generate` reads (`miniature.planned_edits`).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from miniature.glyphs import CLASSES, COLORS
from miniature.prompts import NUMBER_WORDS, GenEvalMetadata
from miniature.world import GAP, TIDY_SIDE, Scene, WorldObject, sample_scene

# Left and top of the object's square, the likeliest choice for "somewhere" first.
PLACES = {
    "center": (25, 25),
    "left": (1, 25),
    "right": (49, 25),
    "top": (25, 1),
    "bottom": (25, 49),
    "top left": (1, 1),
    "top right": (49, 1),
    "bottom left": (1, 49),
    "bottom right": (49, 49),
}
WORDINGS = {
    "add": ("add {new}", "put {new}", "draw {new}"),
    "remove": ("remove {old}", "erase {old}", "take {old} away"),
    "recolor": ("paint {old} {color}", "make {old} {color}", "turn {old} {color}"),
    "move": ("move {old} to the {place}", "shift {old} to the {place}", "bring {old} to the {place}"),
}
OPERATION_SHARES = {"add": 0.28, "remove": 0.2, "recolor": 0.24, "move": 0.28}
PLACED_SHARE = 0.6  # of additions
PAIR_SHARE = 0.25  # of a source's clauses that hold two objects


@dataclass(frozen=True)
class Edit:
    """One instruction on one scene.

    Args:
        operation: key of `WORDINGS`.
        source: the scene before; objects of one class share a colour.
        instruction: what to do, in words.
        result: the scene after.
        edited: the new, recoloured or moved object as `result` has it; None for removals and where any place is right.
    """

    operation: str
    source: Scene
    instruction: str
    result: Scene
    edited: WorldObject | None

    @property
    def kept(self) -> tuple[WorldObject, ...]:
        """The objects that the instruction leaves alone."""
        return tuple(item for item in self.source.objects if item in self.result.objects)

    @property
    def relation(self) -> tuple[str, str, str] | None:
        """(class, relation, class) that a move brings about: clear in the result, and not so in the source.

        None for other edits, and where there is none: the other object must be the only one of its class.
        """
        if self.operation != "move" or self.edited is None:
            return None
        (old,) = (item for item in self.source.objects if item.class_name == self.edited.class_name)
        for other in _single_objects(self.result):
            now = _clear_relation(self.edited, other) if other.class_name != self.edited.class_name else None
            if now is not None and now != _clear_relation(old, other):
                return self.edited.class_name, now, other.class_name
        return None

    @property
    def task(self) -> GenEvalMetadata:
        """The GenEval task that the result fulfils; its tag makes the threshold for exact counts apply."""
        counts = Counter((item.class_name, item.color) for item in self.result.objects)
        include = [{"class": name, "color": color, "count": count} for (name, color), count in counts.items()]
        present = Counter(item.class_name for item in self.result.objects)
        exclude = [{"class": name, "count": present[name] + 1} for name in CLASSES]
        groups = [_quantity(count, color, name) for (name, color), count in counts.items()]
        prompt = f"a photo of {' and '.join(groups)}"
        return {"tag": "counting", "include": include, "exclude": exclude, "prompt": prompt}


def sample_source(rng: np.random.Generator) -> Scene:
    """A tidy scene of one to four objects, one or two of each class, those of a class in one colour."""
    number = int(rng.integers(1, 5))
    labels: list[tuple[str, str]] = []
    for name in rng.permutation(CLASSES):
        count = 2 if rng.random() < PAIR_SHARE else 1
        labels += [(str(name), str(rng.choice(list(COLORS))))] * min(count, number - len(labels))
    return sample_scene(labels, rng, tidy=True)


def sample_edit(rng: np.random.Generator, source: Scene | None = None) -> Edit:
    """An edit of `source`, or of a fresh scene; the operation by `OPERATION_SHARES` among those that it allows."""
    source = source or sample_source(rng)
    single = _single_objects(source)
    impossible = set() if single else {"remove", "recolor", "move"}
    if len(source.objects) == 1:
        impossible.add("remove")  # of nothing at all GenEval has no task
    shares = np.array([0.0 if name in impossible else share for name, share in OPERATION_SHARES.items()])
    operation = str(rng.choice(list(OPERATION_SHARES), p=shares / shares.sum()))
    return _SAMPLERS[operation](source, rng)


def is_free(place: tuple[int, int], others: tuple[WorldObject, ...]) -> bool:
    """Whether an object of tidy size can stand at `place` (left, top), by the world's gap."""
    return all(
        abs(place[0] - item.left) >= TIDY_SIDE + GAP or abs(place[1] - item.top) >= TIDY_SIDE + GAP for item in others
    )


def vocabulary() -> list[str]:
    """Every word that an instruction can hold, sorted."""
    phrases = [wording for wordings in WORDINGS.values() for wording in wordings] + list(PLACES)
    words = {word for phrase in phrases for word in phrase.split() if not word.startswith("{")}
    return sorted(words | {"a", "an", "another", "at", "the"} | set(COLORS) | set(CLASSES))


def _add(source: Scene, rng: np.random.Generator) -> Edit:
    """A new class, or one more of a class that is there; at a named place or anywhere."""
    single = _single_objects(source)
    if single and rng.random() < 1 / 3:
        like = single[rng.integers(len(single))]
        name, color, article = like.class_name, like.color, "another"
    else:
        name = str(rng.choice([name for name in CLASSES if name not in {item.class_name for item in source.objects}]))
        color = str(rng.choice(list(COLORS)))
        article = "an" if color[0] in "aeiou" else "a"
    free = [place for place, corner in PLACES.items() if is_free(corner, source.objects)]
    placed = rng.random() < PLACED_SHARE
    place = str(rng.choice(free)) if placed else free[0]
    new = WorldObject(name, color, *PLACES[place], TIDY_SIDE, COLORS[color])
    wording = _wording("add", rng).format(new=f"{article} {color} {name}") + (f" at the {place}" if placed else "")
    return Edit("add", source, wording, replace(source, objects=(*source.objects, new)), new if placed else None)


def _remove(source: Scene, rng: np.random.Generator) -> Edit:
    old = _choose(source, rng)
    result = replace(source, objects=tuple(item for item in source.objects if item is not old))
    return Edit("remove", source, _wording("remove", rng).format(old=_named(old, rng)), result, None)


def _recolor(source: Scene, rng: np.random.Generator) -> Edit:
    old = _choose(source, rng)
    color = str(rng.choice([name for name in COLORS if name != old.color]))
    instruction = _wording("recolor", rng).format(old=_named(old, rng), color=color)
    return _replaced("recolor", source, instruction, old, replace(old, color=color, rgb=COLORS[color]))


def _move(source: Scene, rng: np.random.Generator) -> Edit:
    old = _choose(source, rng)
    place = str(rng.choice([place for place, corner in PLACES.items() if is_free(corner, source.objects)]))
    instruction = _wording("move", rng).format(old=_named(old, rng), place=place)
    left, top = PLACES[place]
    return _replaced("move", source, instruction, old, replace(old, left=left, top=top))


_SAMPLERS: dict[str, Callable[[Scene, np.random.Generator], Edit]] = {
    "add": _add,
    "remove": _remove,
    "recolor": _recolor,
    "move": _move,
}


def _single_objects(scene: Scene) -> list[WorldObject]:
    """The objects that their class alone tells from all others."""
    counts = Counter(item.class_name for item in scene.objects)
    return [item for item in scene.objects if counts[item.class_name] == 1]


def _clear_relation(item: WorldObject, other: WorldObject) -> str | None:
    """How an object of the same size stands to another, as clearly as in `miniature.prompts.scene_for`'s scenes."""
    right, down = item.left - other.left, item.top - other.top
    if max(abs(right), abs(down)) < 16 or max(abs(right), abs(down)) < 2 * min(abs(right), abs(down)):
        return None
    if abs(right) > abs(down):
        return "right of" if right > 0 else "left of"
    return "below" if down > 0 else "above"


def _choose(scene: Scene, rng: np.random.Generator) -> WorldObject:
    single = _single_objects(scene)
    return single[rng.integers(len(single))]


def _named(item: WorldObject, rng: np.random.Generator) -> str:
    return f"the {item.color} {item.class_name}" if rng.random() < 0.7 else f"the {item.class_name}"


def _wording(operation: str, rng: np.random.Generator) -> str:
    return str(rng.choice(WORDINGS[operation]))


def _replaced(operation: str, source: Scene, instruction: str, old: WorldObject, new: WorldObject) -> Edit:
    objects = tuple(new if item is old else item for item in source.objects)
    return Edit(operation, source, instruction, replace(source, objects=objects), new)


def _quantity(count: int, color: str, name: str) -> str:
    if count > 1:
        return f"{NUMBER_WORDS[count]} {color} {name}s"
    return f"{'an' if color[0] in 'aeiou' else 'a'} {color} {name}"


if __name__ == "__main__":
    from miniature.planned_edits import main

    main()
