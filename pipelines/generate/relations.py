"""`relation` of a planner's record: what its images should show, for the spatial service to judge.

One object is for every instruction; a list has one for each, null where nothing is to be judged:

    {"subject": "apple", "relation": "left of", "reference": "cup"}

Which relations there are is the service's to say.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from assay.tasks import SpatialTask

FIELDS = tuple(field.name for field in fields(SpatialTask))


def check_relations(relation: Any, number: int) -> Iterator[str]:
    """What is wrong with it.

    Args:
        relation: as in the record; None if it is not there.
        number: of the record's instructions.
    """
    if not isinstance(relation, list):
        yield from check_relation("relation", relation)
        return
    if len(relation) != number:
        yield f"relation has {len(relation)} entries; allowed: {number}, one for each of instructions"
    for index, one in enumerate(relation):
        yield from check_relation(f"relation[{index}]", one)


def check_relation(name: str, relation: Any) -> Iterator[str]:
    """What is wrong with a single one.

    Args:
        name: of it, for messages.
        relation: None if nothing is said.
    """
    if relation is None:
        return
    if not isinstance(relation, dict):
        yield f"{name} = {relation!r}; allowed: an object with {', '.join(FIELDS)}, or null"
        return
    for field in FIELDS:
        value = relation.get(field)
        if not isinstance(value, str) or not value.strip():
            yield f"{name}.{field} = {value!r}; allowed: a string that is not empty"
    for field in sorted(relation.keys() - set(FIELDS), key=str):
        yield f"{name}.{field} is unknown; allowed: {', '.join(FIELDS)}"


def read_relations(relation: Any, number: int) -> tuple[SpatialTask | None, ...] | None:
    """What each of `number` images should show; None if nothing is said of any. Only after a check."""
    listed = relation if isinstance(relation, list) else [relation] * number
    if relation is None or (listed and all(one is None for one in listed)):
        return None
    return tuple(None if one is None else SpatialTask(**one) for one in listed)
