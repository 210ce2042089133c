"""Pictures of the small world with a conversation about them, and what stands in each patch: what a spatial judge is
pretrained on. Four kinds: a view with a tinted object, two views, a view with and without an object, and relations."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miniature.glyphs import CLASSES, COLORS
from miniature.recipes.spatial_questions import (
    Mask,
    Seen,
    Turn,
    ask_difference,
    ask_pair,
    ask_relations,
    ask_tinted,
    look,
)
from miniature.vlm import IMAGE_PIXELS, PATCH_PIXELS
from miniature.world import sample_scene
from miniature.x3_scenes import Camera, WideScene, dilate, mask_in_view, sample_camera, sample_wide_scene
from pipelines.spatial_tasks.building.mark_worker import mark

SIDE = IMAGE_PIXELS // PATCH_PIXELS
#: kind -> share
KINDS = {"tinted": 0.2, "pair": 0.4, "difference": 0.2, "relations": 0.2}
ALPHA = 0.45  # as the tasks' own
MISSING_SHARE = 0.25
RELATION_QUESTIONS = 4
COVERED = 0.2  # share of a patch from which on an object stands in it


@dataclass(frozen=True)
class Example:
    """One or two pictures, and what is said about them.

    Args:
        pictures: (number, 64, 64, 3) uint8.
        patches: (number, 4, 64) uint8: class from 1, colour from 1, and 1 where an object's middle is and where it is
            tinted; else 0.
        wanted: (64,) bool: where in the last picture the object in question is; None if nothing is sought there.
        turns: questions and answers.
    """

    pictures: NDArray[np.uint8]
    patches: NDArray[np.uint8]
    wanted: NDArray[np.bool_] | None
    turns: list[Turn]

    def conversation(self) -> list[tuple[str, bool]]:
        """Its text in pieces, in the chat template's form, and of each whether it is learnt."""
        pieces = []
        for number, (question, answer) in enumerate(self.turns):
            images = "" if number else "<image>\n" * len(self.pictures)
            pieces.append((f"<|im_start|>user\n{images}{question}<|im_end|>\n<|im_start|>assistant\n", False))
            pieces.append((f"{answer}<|im_end|>\n", True))
        return pieces


def draw_example(kind: str, rng: np.random.Generator) -> Example:
    """Draw one of a kind of `KINDS`."""
    if kind == "relations":
        return _relations(rng)
    scene = sample_wide_scene(rng)
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    camera = sample_camera(item, rng, sees=True, wholly=kind != "difference")
    seen, mask = camera.see(item), mask_in_view(camera.see(item))
    if kind == "difference":
        return _difference(scene, camera, Seen(item, mask), rng)
    tint = dilate(mask)
    first, patches = mark(scene.render(camera), tint, ALPHA), patch_labels(look(scene, camera), tint)
    if kind == "tinted":
        return Example(first[None], patches[None], None, ask_tinted(seen, mask, look(scene, camera), rng))
    other = sample_camera(item, rng, sees=rng.random() >= MISSING_SHARE)
    there = mask_in_view(other.see(item))
    return Example(
        np.stack([first, scene.render(other)]),
        np.stack([patches, patch_labels(look(scene, other))]),
        in_patches(there),
        ask_pair(item, there, rng),
    )


def draw_examples(number: int, rng: np.random.Generator) -> Iterator[Example]:
    """Draw `number` of them, of each kind by its share."""
    for kind in rng.choice(list(KINDS), number, p=list(KINDS.values())):
        yield draw_example(str(kind), rng)


def patch_labels(objects: list[Seen], tint: Mask | None = None) -> NDArray[np.uint8]:
    """(4, 64): class, colour, middle and tint of each patch; see `Example`."""
    found = np.zeros((4, SIDE, SIDE), np.uint8)
    for one in objects:
        covered = in_patches(one.mask).reshape(SIDE, SIDE)
        found[0][covered] = CLASSES.index(one.item.class_name) + 1
        found[1][covered] = list(COLORS).index(one.item.color) + 1
        rows, columns = np.nonzero(one.mask)
        middle = (int(edge.min() + edge.max() + 1) // 2 // PATCH_PIXELS for edge in (rows, columns))
        found[(2, *middle)] = 1
    if tint is not None:
        found[3] = in_patches(tint).reshape(SIDE, SIDE)
    return found.reshape(4, -1)


def in_patches(mask: Mask) -> NDArray[np.bool_]:
    """(64,) bool: the patches of which a mask covers more than `COVERED`, or the one it covers most."""
    shares = mask.reshape(SIDE, PATCH_PIXELS, SIDE, PATCH_PIXELS).mean((1, 3)).reshape(-1)
    return np.asarray((shares > COVERED) | ((shares > 0) & (shares == shares.max())))


def _difference(scene: WideScene, camera: Camera, seen: Seen, rng: np.random.Generator) -> Example:
    without = scene.without(seen.item)
    views = (scene, without)
    return Example(
        np.stack([one.render(camera) for one in views]),
        np.stack([patch_labels(look(one, camera)) for one in views]),
        in_patches(seen.mask),
        ask_difference(seen.item, seen.mask, rng),
    )


def _relations(rng: np.random.Generator) -> Example:
    number = int(rng.integers(2, 5))
    labels = [(str(rng.choice(CLASSES)), str(rng.choice(list(COLORS)))) for _ in range(number)]
    scene = sample_scene(labels, rng)
    patches = patch_labels([Seen(one, one.mask) for one in scene.objects])
    return Example(scene.render()[None], patches[None], None, ask_relations(scene, RELATION_QUESTIONS, rng))
