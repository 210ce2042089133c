"""What a scorer is asked to judge about an image: one typed dataclass for each task of the contract.

The classes mirror the `task` oneof of `proto/assay/v1/reward_service.proto`. They carry no behaviour
beyond reading and writing the field's own JSON (GenEval's `metadata` lines); whether a task makes sense
for a scorer (known classes, positive counts) is for that scorer to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ObjectClause:
    """One `include` or `exclude` entry of a GenEval task.

    Args:
        class_name: GenEval's name of the object class, e.g. `apple` or `computer mouse`.
        count: wanted number of objects for `include`; for `exclude`, the number from which on the image is wrong.
        color: one of GenEval's ten colours, or None.
        position: (relation, index of the include clause it relates to), e.g. ("left of", 0), or None.
    """

    class_name: str
    count: int = 1
    color: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True)
class GenEvalTask:
    """A line of GenEval's task file, less its prompt."""

    tag: str
    include: tuple[ObjectClause, ...]
    exclude: tuple[ObjectClause, ...] = ()

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "GenEvalTask":
        """Read GenEval's JSON form: {"tag", "include": [{"class", "count", ...}], "exclude"?: [...]}.

        Raises:
            KeyError: `tag`, `include` or a clause's `class` is missing.
        """
        return cls(
            tag=metadata["tag"],
            include=tuple(_clause(entry) for entry in metadata["include"]),
            exclude=tuple(_clause(entry) for entry in metadata.get("exclude", ())),
        )

    def to_metadata(self) -> dict[str, Any]:
        """Write GenEval's JSON form; the inverse of `from_metadata`."""
        metadata: dict[str, Any] = {"tag": self.tag, "include": [_entry(clause) for clause in self.include]}
        if self.exclude:
            metadata["exclude"] = [_entry(clause) for clause in self.exclude]
        return metadata


@dataclass(frozen=True)
class OutcomeTask:
    """Does the finished image satisfy the prompt? (ORM)"""

    question: str = ""


@dataclass(frozen=True)
class PotentialTask:
    """Is an intermediate image clear enough, and can it become a good one? (PARM)"""

    step: int
    num_steps: int


@dataclass(frozen=True)
class SpatialTask:
    """Do two objects of the image stand in a spatial relation?"""

    subject: str
    relation: str
    reference: str


@dataclass(frozen=True)
class PointingTask:
    """Where in the last view is what is asked for? The images are the views and, last, a mask of the query view.

    Args:
        question: asked instead of the scorer's own if not empty; without marks for images.
    """

    question: str = ""


#: What GenEval's tasks are about (djghosh13/geneval).
GENEVAL_TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

Task = GenEvalTask | OutcomeTask | PotentialTask | SpatialTask | PointingTask


def _clause(entry: Mapping[str, Any]) -> ObjectClause:
    position = entry.get("position")
    return ObjectClause(
        class_name=entry["class"],
        count=entry.get("count", 1),
        color=entry.get("color"),
        position=(position[0], position[1]) if position else None,
    )


def _entry(clause: ObjectClause) -> dict[str, Any]:
    entry: dict[str, Any] = {"class": clause.class_name, "count": clause.count}
    if clause.color is not None:
        entry["color"] = clause.color
    if clause.position is not None:
        entry["position"] = list(clause.position)
    return entry
