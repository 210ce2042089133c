"""Units: a few questions each, in the file's order. What is asked decides whether it is asked again; how answers are
counted does not, for both ways are kept."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from assay.files import digest_file
from pipelines.engine.unit import Unit
from pipelines.spatial_tasks.evaluation import ask_worker
from pipelines.spatial_tasks.evaluation.rows import Question

VARIANT = "spatial"


def plan_units(questions: Sequence[Question], batch_size: int, fingerprints: Mapping[str, str]) -> list[Unit]:
    """Units of at most `batch_size` questions that one scorer judges.

    Args:
        questions: of one file.
        batch_size: of a call.
        fingerprints: of each scorer.
    """
    digest = cache(_digest_if_readable)
    units = []
    for scorer in dict.fromkeys(question.scorer for question in questions):
        mine = [question for question in questions if question.scorer == scorer]
        for batch in _batches(mine, batch_size):
            inputs = {
                "scorer": scorer,
                "fingerprint": fingerprints[scorer],
                "questions": [_inputs(question, digest) for question in batch],
            }
            name = f"{batch[0].number:06d}"
            units.append(Unit(name, VARIANT, ask_worker.STAGE, f"answers/{name}", inputs, _locations(batch)))
    return units


def _batches(questions: Sequence[Question], size: int) -> list[list[Question]]:
    return [list(questions[start : start + size]) for start in range(0, len(questions), size)]


def _inputs(question: Question, digest: Any) -> dict[str, Any]:
    return {
        "number": question.number,
        "id": question.id,
        "task": question.task,
        "text": question.text,
        "wanted": question.wanted,
        "is_whole_frame": question.is_whole_frame,
        "images": [digest(path) for path in question.images],
        "mask": question.mask and digest(question.mask),
        "shown": [str(path) for path in (*question.images, question.query, question.mask)],
    }


def _locations(batch: Sequence[Question]) -> dict[str, Any]:
    return {
        "files": [
            {
                "images": [str(path) for path in question.images],
                "is_concatenated": question.is_concatenated,
                "query": str(question.query),
                "mask": None if question.mask is None else str(question.mask),
            }
            for question in batch
        ]
    }


def _digest_if_readable(path: Path) -> str | None:
    try:
        return digest_file(path)
    except OSError:  # the unit says so when it comes to it
        return None
