"""Score stored detections from the command line: the rules without a detector.

Reads JSON lines {"metadata": {a GenEval task}, "detections": {class: [[x1, y1, x2, y2, confidence], ...]}}, prints one
JSON verdict a line, in order: {"correct", "strict_correct", "score"}, or {"error"} for a line that cannot be read
(also told on standard error; the exit status is then 1). There are no images here, so the colour of an object is, by
definition of the format, entry `round(x1 + y1 + x2 + y2) mod 10` of GenEval's list of colours.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from assay.errors import AssayError
from assay.outcomes import Detection
from assay.tasks import GenEvalTask
from services.geneval.rules import Box, RuleSettings, judge, keep
from services.geneval.task_check import TaskProblem, check_task
from services.geneval.vocabulary import COLORS


class StoredLineProblem(AssayError, ValueError):
    """A line of a stored-detections file that cannot be read; names the field, its value and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} is {_shortened(value)}; allowed: {allowed}")


class _Missing:
    """The value of a field that is not there."""

    def __repr__(self) -> str:
        return "missing"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    settings = RuleSettings(options.threshold, options.counting_threshold, options.max_objects)
    try:
        status = 0
        for number, line in _lines(options.file):
            try:
                print(json.dumps(verdict_of_line(line, settings, compat=options.compat)))
            except StoredLineProblem as problem:
                message = f"{options.file}:{number}: {problem}"
                print(json.dumps({"error": message}))
                print(f"error: {message}", file=sys.stderr)
                status = 1
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has gone (`... | head`): nothing is left to say, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, UnicodeDecodeError) as problem:
        print(f"error: cannot read {options.file}: {problem}", file=sys.stderr)
        return 1
    return status


def verdict_of_line(line: str, settings: RuleSettings, *, compat: bool = False) -> dict[str, bool | float]:
    """The verdict on one stored line.

    Raises:
        StoredLineProblem: the line is not of the format, or its task cannot be judged.
    """
    try:
        record = json.loads(line)
    except ValueError as problem:  # also raised, as such, for a number of thousands of digits
        raise StoredLineProblem("the line", line, f"one JSON object ({problem})") from None
    record = _typed(record, dict, "the line", "a JSON object with metadata and detections")
    task = _task(_field(record, "metadata", dict, "", "an object"))
    try:
        check_task(task)
    except TaskProblem as problem:
        raise StoredLineProblem(f"metadata.{problem.field}", problem.value, problem.allowed) from None
    stored = _field(record, "detections", dict, "", "an object {class: [[x1, y1, x2, y2, confidence], ...]}")
    verdict = judge(task, keep(_detections(stored), task.tag, settings), settings, compat=compat)
    return {"correct": verdict.correct, "strict_correct": verdict.strict_correct, "score": verdict.score}


def color_of_box(box: Box) -> str:
    """The colour that the format assigns to a box."""
    return COLORS[round(sum(box)) % len(COLORS)]


def _lines(file: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of the lines that are not blank; `-` is standard input."""
    with nullcontext(sys.stdin) if file == "-" else Path(file).open(encoding="utf-8-sig") as stream:
        yield from ((number, line) for number, line in enumerate(stream, start=1) if line.strip())


def _task(metadata: dict[str, Any]) -> GenEvalTask:
    _field(metadata, "tag", str, "metadata.", "a GenEval tag")
    for kind in ("include", "exclude"):
        if kind == "include" or kind in metadata:
            for index, clause in enumerate(_field(metadata, kind, list, "metadata.", "a list of clauses")):
                _check_clause(clause, f"metadata.{kind}[{index}]")
    return GenEvalTask.from_metadata(metadata)


def _check_clause(clause: Any, path: str) -> None:
    _typed(clause, dict, path, 'an object {"class", "count", ...}')
    _field(clause, "class", str, f"{path}.", "the name of a class")
    if "count" in clause:
        _field(clause, "count", int, f"{path}.", "a whole number")
    if clause.get("color") is not None:
        _field(clause, "color", str, f"{path}.", "a colour")
    position = clause.get("position")
    if position is not None:
        is_pair = isinstance(position, list) and len(position) == 2
        if not (is_pair and isinstance(position[0], str) and _is_a(position[1], int)):
            raise StoredLineProblem(f"{path}.position", position, "[relation, index of an earlier clause]")


def _detections(stored: dict[str, Any]) -> Iterator[Detection]:
    for label, rows in stored.items():
        for index, row in enumerate(_typed(rows, list, f"detections.{label}", "a list of detections")):
            yield _detection(label, row, f"detections.{label}[{index}]")


def _detection(label: str, row: Any, path: str) -> Detection:
    if not isinstance(row, list) or len(row) != 5 or not all(_is_coordinate(entry) for entry in row):
        raise StoredLineProblem(path, row, "five numbers [x1, y1, x2, y2, confidence]")
    x1, y1, x2, y2, confidence = row
    if x1 > x2 or y1 > y2:
        raise StoredLineProblem(path, row, "x1 <= x2 and y1 <= y2")
    if not 0 <= confidence <= 1:
        raise StoredLineProblem(f"{path}[4]", confidence, "a confidence from 0 to 1")
    return Detection(label, confidence, (x1, y1, x2, y2), color_of_box((x1, y1, x2, y2)))


def _field(record: dict[str, Any], name: str, kind: type, path: str, allowed: str) -> Any:
    if name not in record:
        raise StoredLineProblem(f"{path}{name}", _Missing(), allowed)
    return _typed(record[name], kind, f"{path}{name}", allowed)


def _typed(value: Any, kind: type, path: str, allowed: str) -> Any:
    if not _is_a(value, kind):
        raise StoredLineProblem(path, value, allowed)
    return value


def _is_a(value: Any, kind: type) -> bool:
    """isinstance, but true and false are no numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_coordinate(value: Any) -> bool:
    """A number that an image could hold: not NaN, not infinite, not so large that arithmetic overflows."""
    return (_is_a(value, int) or _is_a(value, float)) and abs(value) < 1e9


def _shortened(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _parser() -> argparse.ArgumentParser:
    official = RuleSettings()
    parser = argparse.ArgumentParser(
        prog="python -m services.geneval.rules",
        description="Score stored detections by GenEval's rules; one JSON verdict a line.",
    )
    parser.add_argument("file", metavar="FILE.jsonl", help="stored detections; - reads standard input")
    parser.add_argument("--compat", action="store_true", help="the reward server's soft score, defects included")
    parser.add_argument("--threshold", type=float, default=official.threshold, help="default %(default)s")
    parser.add_argument(
        "--counting-threshold", type=float, default=official.counting_threshold, help="default %(default)s"
    )
    parser.add_argument(
        "--max-objects", type=int, default=official.max_objects, help="of one class; default %(default)s"
    )
    return parser
