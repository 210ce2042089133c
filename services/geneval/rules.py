"""GenEval's rules, pure: what a task asks, against what was detected, gives a verdict. No model, no array library.

Four readings of the same detections (sources: djghosh13/geneval for the official rule, yifan123/reward-server for
the others):

* `correct`, the official rule: at least `count` objects of every include clause, the first `count` of them in the
  wanted colour, every pair of a position clause in the wanted relation, and fewer than `count` of every exclude clause.
* `strict_correct`: the same with exactly `count` objects.
* `score`, soft, in [0, 1]: the mean of these terms. For an include clause of n objects, f of them found:
  max(0, 1 - |n - f| / n); if it names a colour, (number in that colour) / n, and 0 where f is not n; if it names a
  position, 1 if all pairs hold, else 0, and 0 where f is not n. For an exclude clause of c objects whose class is
  not included as well: max(0, 1 - (f - c + 1) / c) if f >= c, else 1 (an included class is already judged by
  its exact count).
* `score` with `compat=True`, the reward server's: no floor (f = 16 for n = 1 is -14), an extra 1 after every judged
  position, right or wrong (right counts with a wrong position give 0.75, not 0.667), and `exclude` ignored.

And `counting_score`, made for training. The file also is a command: `python -m services.geneval.rules --help`.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import hypot
from typing import Protocol, TypeVar

from assay.outcomes import Detection
from assay.tasks import GenEvalTask, ObjectClause
from services.geneval.vocabulary import quantity

Box = tuple[float, float, float, float]
Kept = Mapping[str, tuple[Detection, ...]]


@dataclass(frozen=True)
class RuleSettings:
    """The numbers of the rules; the defaults are the official ones.

    Args:
        threshold: an object counts if its confidence is greater (not equal).
        counting_threshold: the same for tasks tagged `counting`.
        max_objects: the most objects kept of one class, the surest first; counts from here on cannot be told apart.
        position_margin: share of both objects' sizes by which their centres must differ before a relation holds.
    """

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    position_margin: float = 0.1

    def threshold_for(self, tag: str) -> float:
        return self.counting_threshold if tag == "counting" else self.threshold


@dataclass(frozen=True)
class Verdict:
    """What the rules say of one image.

    Args:
        correct: the official rule.
        strict_correct: every count exact, every colour and position right.
        score: the soft score; see the module's docstring.
        counting: mean of `counting_score` over the include clauses.
        found: number of kept objects of each class that the task names.
        reason: why, in words, e.g. `wanted 3 apples, found 4`.
    """

    correct: bool
    strict_correct: bool
    score: float
    counting: float
    found: Mapping[str, int]
    reason: str


def counting_score(found: int, wanted: int) -> float:
    """1 / (1 + |found - wanted|): a reward to learn exact counts from.

    Unlike 1 - |error| / wanted it (a) never reaches zero, so that 40 for 4 is still worse than 30 for 4 and a group of
    bad images still has a best one; (b) drops by a half at the first error whatever the wanted number, so that 9 for
    10 is not all but right, and prompts of large counts weigh as much as those of small ones when advantages are
    divided by one standard deviation; (c) is convex, so that the last step, to the exact count, pays most.
    """
    return 1.0 / (1.0 + abs(found - wanted))


class Found(Protocol):
    """What `keep` looks at: any detected object with a class and a confidence."""

    @property
    def label(self) -> str: ...

    @property
    def confidence(self) -> float: ...


AnyFound = TypeVar("AnyFound", bound=Found)


def keep(detections: Iterable[AnyFound], tag: str, settings: RuleSettings) -> dict[str, tuple[AnyFound, ...]]:
    """The detections that count for a task of this tag, by class, the surest first, at most `max_objects` of each."""
    threshold = settings.threshold_for(tag)
    by_class: dict[str, list[AnyFound]] = defaultdict(list)
    for detection in detections:
        if detection.confidence > threshold:
            by_class[detection.label].append(detection)
    return {
        label: tuple(sorted(group, key=lambda item: -item.confidence)[: settings.max_objects])
        for label, group in by_class.items()
    }


def judge(task: GenEvalTask, kept: Kept, settings: RuleSettings, *, compat: bool = False) -> Verdict:
    """Judge kept detections (see `keep`).

    Args:
        task: what is wanted; position indices must point to earlier include clauses.
        kept: detections by class. Those of classes with a wanted colour carry their `color`; None matches no colour.
        settings: of which only the position margin is used here.
        compat: reproduce the reward server's soft score, defects included.
    """
    grade = _grade(task, kept, settings.position_margin, compat)
    return Verdict(
        correct=_official(task, kept, settings.position_margin),
        strict_correct=grade.strict,
        score=sum(grade.terms) / len(grade.terms) if grade.terms else 0.0,
        counting=_mean_counting_score(task, kept),
        found={clause.class_name: _count(kept, clause) for clause in (*task.include, *task.exclude)},
        reason="; ".join(grade.complaints) or _praise(task, kept),
    )


def relative_position(box: Box, other: Box, margin: float) -> set[str]:
    """The relations in which `box` stands to `other`; y points down, two relations may hold at once, or none.

    The offset of the centres is shortened on each axis by `margin` times both sizes; a relation holds where what is
    left is more than half of the whole offset's length (djghosh13/geneval, `relative_position`).
    """
    offset_x, gap_x = _axis_offset(box[0], box[2], other[0], other[2], margin)
    offset_y, gap_y = _axis_offset(box[1], box[3], other[1], other[3], margin)
    if abs(gap_x) < 1e-3 and abs(gap_y) < 1e-3:
        return set()
    length = hypot(offset_x, offset_y)
    holds = {
        "left of": gap_x / length < -0.5,
        "right of": gap_x / length > 0.5,
        "above": gap_y / length < -0.5,
        "below": gap_y / length > 0.5,
    }
    return {relation for relation, is_so in holds.items() if is_so}


def _axis_offset(low: float, high: float, other_low: float, other_high: float, margin: float) -> tuple[float, float]:
    """(offset of the centres, the same shortened by the margin) along one axis."""
    offset = (low + high) / 2 - (other_low + other_high) / 2
    room = margin * (abs(high - low) + abs(other_high - other_low))
    gap = max(abs(offset) - room, 0.0)
    return offset, gap if offset > 0 else -gap


def _official(task: GenEvalTask, kept: Kept, margin: float) -> bool:
    groups: list[tuple[Detection, ...] | None] = []
    for clause in task.include:
        group = kept.get(clause.class_name, ())[: clause.count]
        matched = (
            len(group) == clause.count
            and (clause.color is None or all(item.color == clause.color for item in group))
            and (clause.position is None or _position_holds(clause.position, group, groups, margin))
        )
        groups.append(group if matched else None)
    excluded = any(_count(kept, clause) >= clause.count for clause in task.exclude)
    return None not in groups and not excluded


def _position_holds(
    position: tuple[str, int],
    group: tuple[Detection, ...],
    earlier_groups: list[tuple[Detection, ...] | None],
    margin: float,
) -> bool:
    """Whether every object of the group stands in the relation to every object of a matched earlier group."""
    relation, target_index = position
    targets = earlier_groups[target_index]
    return targets is not None and all(
        relation in relative_position(item.box, target.box, margin) for item in group for target in targets
    )


@dataclass
class _Grade:
    """The strict and soft readings, as they grow clause by clause."""

    strict: bool = True
    terms: list[float] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    groups: list[tuple[Detection, ...] | None] = field(default_factory=list)

    def complain(self, complaint: str) -> None:
        self.strict = False
        self.complaints.append(complaint)


def _grade(task: GenEvalTask, kept: Kept, margin: float, compat: bool) -> _Grade:
    grade = _Grade()
    for clause in task.include:
        group = kept.get(clause.class_name, ())
        count_term = 1 - abs(clause.count - len(group)) / clause.count
        grade.terms.append(count_term if compat else max(0.0, count_term))
        matched = len(group) == clause.count
        if not matched:
            grade.complain(_count_complaint(clause, len(group)))
            if clause.color is not None or clause.position is not None:
                grade.terms.append(0.0)
        if matched and clause.color is not None:
            matched = _grade_color(grade, clause, group)
        if matched and clause.position is not None:
            matched = _grade_position(grade, task, clause, group, margin, compat)
        grade.groups.append(group if matched else None)
    if not compat:
        _grade_exclusions(grade, task, kept)
    return grade


def _grade_color(grade: _Grade, clause: ObjectClause, group: tuple[Detection, ...]) -> bool:
    right = sum(item.color == clause.color for item in group)
    grade.terms.append(right / clause.count)
    if right != clause.count:
        seen = ", ".join(item.color or "no colour" for item in group)
        wanted = quantity(clause.count, clause.class_name, clause.color)
        grade.complain(f"wanted {wanted}, found {right} of that colour (colours: {seen})")
    return right == clause.count


def _grade_position(
    grade: _Grade,
    task: GenEvalTask,
    clause: ObjectClause,
    group: tuple[Detection, ...],
    margin: float,
    compat: bool,
) -> bool:
    assert clause.position is not None
    relation, target_index = clause.position
    target = task.include[target_index].class_name
    if grade.groups[target_index] is None:
        grade.terms.append(0.0)
        grade.complain(f"{clause.class_name} cannot be {relation} {target}: {target} itself does not match")
        return False
    holds = _position_holds(clause.position, group, grade.groups, margin)
    if not holds:
        grade.terms.append(0.0)
        grade.complain(f"{clause.class_name} is not {relation} {target}")
    if holds or compat:
        grade.terms.append(1.0)
    return holds


def _grade_exclusions(grade: _Grade, task: GenEvalTask, kept: Kept) -> None:
    included = {clause.class_name for clause in task.include}
    for clause in task.exclude:
        found = _count(kept, clause)
        if found >= clause.count:
            grade.complain(f"wanted fewer than {quantity(clause.count, clause.class_name)}, found {found}")
        if clause.class_name not in included:
            excess = max(0, found - clause.count + 1)
            grade.terms.append(max(0.0, 1 - excess / clause.count))


def _mean_counting_score(task: GenEvalTask, kept: Kept) -> float:
    scores = [counting_score(_count(kept, clause), clause.count) for clause in task.include]
    return sum(scores) / len(scores) if scores else 0.0


def _count(kept: Kept, clause: ObjectClause) -> int:
    return len(kept.get(clause.class_name, ()))


def _count_complaint(clause: ObjectClause, found: int) -> str:
    return f"wanted {quantity(clause.count, clause.class_name)}, found {found}"


def _praise(task: GenEvalTask, kept: Kept) -> str:
    wanted = [quantity(clause.count, clause.class_name, clause.color) for clause in task.include]
    return f"found {' and '.join(wanted)}, as wanted"


if __name__ == "__main__":
    from services.geneval.stored import main

    sys.exit(main())
