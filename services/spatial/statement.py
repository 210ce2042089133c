"""What is asked of an image: that one object stands in a relation to another."""

from dataclasses import dataclass

from assay.tasks import GenEvalTask, ObjectClause, SpatialTask
from assay.vision_language.texts import RefusedError
from services.geneval.task_check import TaskProblem, check_task
from services.geneval.vocabulary import quantity
from services.spatial.relations import RELATIONS


@dataclass(frozen=True)
class Statement:
    """One statement.

    Args:
        subject, reference: object classes, or objects in words.
        relation: one of `services.spatial.relations.RELATIONS`.
        subject_words, reference_words: as a question has them.
        is_plain: one object each, of whichever colour.
    """

    subject: str
    relation: str
    reference: str
    subject_words: str
    reference_words: str
    is_plain: bool = True


def statements_of(task: object) -> tuple[Statement, ...]:
    """What a task states, one for each position in it.

    Raises:
        RefusedError: it states nothing that could be asked.
    """
    if isinstance(task, SpatialTask):
        if task.relation not in RELATIONS:
            raise RefusedError(
                "UNKNOWN_RELATION", f"task.relation is {task.relation!r}; allowed: {', '.join(RELATIONS)}"
            )
        return (Statement(task.subject, task.relation, task.reference, task.subject, task.reference),)
    if isinstance(task, GenEvalTask):
        return _of_geneval(task)
    raise RefusedError("WRONG_TASK_TYPE", f"task is a {type(task).__name__}; allowed: SpatialTask, GenEvalTask")


def _of_geneval(task: GenEvalTask) -> tuple[Statement, ...]:
    if task.tag != "position":
        raise RefusedError("WRONG_TASK_TYPE", f"task.tag is {task.tag!r}; allowed: 'position'")
    try:
        check_task(task)
    except TaskProblem as problem:
        raise RefusedError(problem.reason, f"task.{problem}") from None
    placed = [(clause, clause.position) for clause in task.include if clause.position is not None]
    if not placed:
        raise RefusedError("MISSING_POSITION", "task.include has no position; allowed: one clause with it, or more")
    related = {index for index, clause in enumerate(task.include) if clause.position is not None}
    related |= {index for _, (_, index) in placed}
    # To leave out what is asked besides would be to judge another task.
    if task.exclude:
        raise RefusedError("EXCLUDE_NOT_JUDGED", "task.exclude is not empty; allowed: none, relations alone are judged")
    if others := [index for index in range(len(task.include)) if index not in related]:
        raise RefusedError(
            "CLAUSE_NOT_JUDGED", f"task.include[{others[0]}] is in no relation; allowed: clauses that are in one"
        )
    return tuple(_statement(clause, relation, task.include[index]) for clause, (relation, index) in placed)


def _statement(subject: ObjectClause, relation: str, reference: ObjectClause) -> Statement:
    return Statement(
        subject.class_name,
        relation,
        reference.class_name,
        _words(subject),
        _words(reference),
        is_plain=all(clause.count == 1 and clause.color is None for clause in (subject, reference)),
    )


def _words(clause: ObjectClause) -> str:
    if clause.count > 1:
        return quantity(clause.count, clause.class_name, clause.color)
    return " ".join(word for word in (clause.color, clause.class_name) if word)
