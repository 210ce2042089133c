"""Is a GenEval task one that can be judged? Every refusal names the field, its value and what is allowed.

It looks at the task alone, never at an image. Judging a task that passed cannot fail.
"""

from collections.abc import Collection
from difflib import get_close_matches

from assay.errors import AssayError
from assay.tasks import GenEvalTask, ObjectClause
from services.geneval.vocabulary import COLORS, RELATIONS, TAGS, geneval_class_name


class TaskProblem(AssayError, ValueError):
    """A task that cannot be judged.

    Args:
        reason: machine-readable, UPPER_SNAKE.
        field: path of the field at fault, e.g. `include[0].count`.
        value: what was there.
        allowed: what may be there, in words.
    """

    def __init__(self, reason: str, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} is {value!r}; allowed: {allowed}", reason=reason)
        self.field = field
        self.value = value
        self.allowed = allowed


def check_task(task: GenEvalTask, *, vocabulary: Collection[str] | None = None, max_objects: int | None = None) -> None:
    """Raise `TaskProblem` unless the task can be judged.

    Args:
        task: the task.
        vocabulary: the classes that can be detected; None accepts every name.
        max_objects: refuse counts of this size or more: the rules keep so many objects of a class and
            no more, so no image could be told to be right. None accepts every count.
    """
    if task.tag not in TAGS:
        raise TaskProblem("UNKNOWN_TAG", "tag", task.tag, ", ".join(TAGS))
    if not task.include:
        raise TaskProblem("EMPTY_INCLUDE", "include", [], "one clause or more")
    for kind, clauses in (("include", task.include), ("exclude", task.exclude)):
        for index, clause in enumerate(clauses):
            field = f"{kind}[{index}]"
            _check_class(field, clause, vocabulary)
            _check_count(field, clause, max_objects)
            if clause.color is not None and clause.color not in COLORS:
                raise TaskProblem("UNKNOWN_COLOR", f"{field}.color", clause.color, ", ".join(COLORS))
            if clause.position is not None:
                _check_position(field, clause.position, index)
    _check_exclude_is_plain(task)


def _check_class(field: str, clause: ObjectClause, vocabulary: Collection[str] | None) -> None:
    if vocabulary is None or clause.class_name in vocabulary:
        return
    known = sorted(vocabulary)
    renamed = geneval_class_name(clause.class_name)
    near = [renamed] if renamed in vocabulary else get_close_matches(clause.class_name, known, n=3)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise TaskProblem("UNKNOWN_CLASS", f"{field}.class", clause.class_name, ", ".join(known) + hint)


def _check_count(field: str, clause: ObjectClause, max_objects: int | None) -> None:
    if clause.count < 1:
        raise TaskProblem("INVALID_COUNT", f"{field}.count", clause.count, "1 or more")
    if max_objects is not None and clause.count >= max_objects:
        allowed = (
            f"1 to {max_objects - 1} (this service keeps at most {max_objects} objects of a class: rules.max_objects)"
        )
        raise TaskProblem("INVALID_COUNT", f"{field}.count", clause.count, allowed)


def _check_position(field: str, position: tuple[str, int], index: int) -> None:
    relation, target = position
    if relation not in RELATIONS:
        raise TaskProblem("UNKNOWN_RELATION", f"{field}.position[0]", relation, ", ".join(RELATIONS))
    if not 0 <= target < index:
        allowed = (
            f"the index of an earlier include clause, 0 to {index - 1}" if index else "no position on the first clause"
        )
        raise TaskProblem("POSITION_OUT_OF_RANGE", f"{field}.position[1]", target, allowed)


def _check_exclude_is_plain(task: GenEvalTask) -> None:
    """GenEval's rules know no coloured or placed exclusions; ignoring what is asked would judge another task."""
    for index, clause in enumerate(task.exclude):
        for name, value in (("color", clause.color), ("position", clause.position)):
            if value is not None:
                raise TaskProblem("INVALID_EXCLUDE", f"exclude[{index}].{name}", value, "class and count only")
