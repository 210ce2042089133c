"""Questions about scenes of the small world, with their right answers: what a verifier is pretrained on.

None is worded as the questions that verifiers are asked in service (`assay.questions`): a model that learns from these
alone judges them zero-shot. A third of the questions about a whole prompt have words strewn in at random, so that what
a sentence is worded with matters less than the prompt in it.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from miniature.glyphs import CLASSES
from miniature.prompts import NUMBER_WORDS, RELATIONS, GenEvalMetadata, sample_metadata
from miniature.world import Scene, WorldObject

#: About a whole prompt.
MATCH = (
    "Someone asked for {prompt}. Is that what the picture shows?",
    "Request: {prompt}. Was it drawn right?",
    "True or false, yes or no: {prompt}.",
    "Does the picture show {prompt}?",
    "Compare with the text: {prompt}. Do both agree?",
    "Is it {prompt}?",
)
#: About a part of the scene.
COUNT = "How many {name}s are in the picture?"
EXISTS = "Is there any {name}?"
COLOR = "What color has the {name}?"
RELATION = "Is the {name} {relation} the {other}?"
LIST = "Name all objects."
#: Words that sentences of verifiers may be made of.
STRAY = (
    *(
        "This",
        "this",
        "image",
        "is",
        "generated",
        "by",
        "from",
        "a",
        "prompt",
        "preview",
        "of",
        "that",
        "still",
        "being",
    ),
    *("Are", "the", "objects", "in", "it", "already", "clear", "enough", "to", "judge", "whether", "finished", "can"),
    *("match", "Does", "accurately", "represent", "Can", "become", "Please", "Answer", "answer", "yes", "or", "no"),
    *("without", "explanation", "potential", "step", "certain"),
)
MOST_STRAY = 16  # on each side
FAR_APART_PIXELS = 4
MOST_TRIES = 40


def texts() -> list[str]:
    """All that can be said, for a tokenizer."""
    return [*MATCH, COUNT, EXISTS, COLOR, RELATION, LIST, " ".join(STRAY), "nothing", *NUMBER_WORDS]


def ask(scene: Scene, metadata: GenEvalMetadata, rng: np.random.Generator) -> tuple[str, str]:
    """A question about a scene, and the answer.

    Args:
        scene: what is looked at.
        metadata: the task that it was made for.
        rng: source of all randomness.
    """
    kind = rng.choice(["match", "count", "exists", "color", "relation", "list"], p=[0.5, 0.15, 0.08, 0.1, 0.07, 0.1])
    if kind == "match" or (kind == "relation" and len(scene.objects) < 2):
        return ask_match(scene, metadata, rng)
    names = [item.class_name for item in scene.objects]
    name = str(rng.choice(names if names and rng.random() < 0.6 else CLASSES))
    if kind == "count":
        return COUNT.format(name=name), NUMBER_WORDS[names.count(name)]
    if kind == "color" and names.count(name) == 1:
        return COLOR.format(name=name), scene.objects[names.index(name)].color
    if kind == "relation":
        return _ask_relation(scene, rng)
    if kind == "list":
        return LIST, describe(scene.objects)
    return EXISTS.format(name=name), "yes" if name in names else "no"


def ask_match(scene: Scene, metadata: GenEvalMetadata, rng: np.random.Generator) -> tuple[str, str]:
    """Whether the scene is what a prompt says: as often yes as no.

    Args:
        scene: what is looked at.
        metadata: the task that it was made for; asked about where the answer is to be yes.
        rng: source of all randomness.
    """
    asked = metadata
    if rng.random() < 0.5:
        wrong = (near(metadata, rng) for _ in range(MOST_TRIES))
        asked = next((task for task in wrong if not fulfils(scene, task)), metadata)
    text = str(rng.choice(MATCH)).format(prompt=asked["prompt"])
    if rng.random() < 0.3:
        before, after = (" ".join(rng.choice(STRAY, int(rng.integers(0, MOST_STRAY)))) for _ in range(2))
        text = f"{before} {text} {after}".strip()
    return text, "yes" if fulfils(scene, asked) else "no"


def sample_task(rng: np.random.Generator, tag: str | None = None) -> GenEvalMetadata:
    """Draw a task, of any tag alike."""
    tasks = _tasks()
    of_tag = tasks[tag or str(rng.choice(sorted(tasks)))]
    return of_tag[int(rng.integers(len(of_tag)))]


def near(metadata: GenEvalMetadata, rng: np.random.Generator) -> GenEvalMetadata:
    """A task of the same tag that has much in common with another: what a generator gets wrong is seldom all wrong."""
    drawn = [sample_task(rng, metadata["tag"]) for _ in range(int(rng.integers(1, 16)))]
    return max(drawn, key=lambda task: _in_common(task, metadata))


def fulfils(scene: Scene, metadata: GenEvalMetadata) -> bool:
    """Whether a scene is right by GenEval's rule: enough of each object, in its colour, where it should be, and not as
    many as are excluded."""
    for clause in metadata["include"]:
        found = _of(scene, clause["class"], clause.get("color"))
        if len(found) < clause["count"]:
            return False
        if "position" in clause:
            relation, other = clause["position"]
            references = _of(scene, metadata["include"][other]["class"], metadata["include"][other].get("color"))
            if not any(relation in relations(item, reference) for item in found for reference in references):
                return False
    return all(len(_of(scene, one["class"], None)) < one["count"] for one in metadata.get("exclude", ()))


def relations(item: WorldObject, reference: WorldObject) -> set[str]:
    """Where an object clearly stands to another."""
    right, down = (a - b for a, b in zip(_centre(item), _centre(reference), strict=True))
    found = {"left of": -right, "right of": right, "above": -down, "below": down}
    return {relation for relation in RELATIONS if found[relation] > FAR_APART_PIXELS}


def describe(objects: Sequence[WorldObject]) -> str:
    """All objects with their colours, row by row."""
    ordered = sorted(objects, key=lambda item: (item.top // 16, item.left))
    return ", ".join(f"{item.color} {item.class_name}" for item in ordered) or "nothing"


@cache
def _tasks() -> dict[str, list[GenEvalMetadata]]:
    """Tasks by tag, each prompt once: nearly all that the world has of the smaller tags."""
    rng = np.random.default_rng(0)
    drawn = {task["prompt"]: task for task in (sample_metadata(rng) for _ in range(8000))}
    tags = dict.fromkeys(task["tag"] for task in drawn.values())
    return {str(tag): [task for task in drawn.values() if task["tag"] == tag] for tag in tags}


def _ask_relation(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    first, second = (scene.objects[int(index)] for index in rng.choice(len(scene.objects), 2, replace=False))
    relation = str(rng.choice(RELATIONS))
    text = RELATION.format(name=first.class_name, relation=relation, other=second.class_name)
    firsts, seconds = (_of(scene, item.class_name, None) for item in (first, second))
    holds = any(relation in relations(one, other) for one in firsts for other in seconds if one is not other)
    return text, "yes" if holds else "no"


def _in_common(task: GenEvalMetadata, other: GenEvalMetadata) -> int:
    """How many values of their clauses are equal."""
    return sum(
        value == clause.get(field)
        for wanted, clause in zip(task["include"], other["include"], strict=True)
        for field, value in wanted.items()
    )


def _of(scene: Scene, name: str, color: str | None) -> list[WorldObject]:
    return [item for item in scene.objects if item.class_name == name and color in (None, item.color)]


def _centre(item: WorldObject) -> tuple[float, float]:
    x1, y1, x2, y2 = item.box
    return (x1 + x2) / 2, (y1 + y2) / 2
