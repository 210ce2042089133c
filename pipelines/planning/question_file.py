"""The questions, `questions.jsonl`: one a line, checked before anything is done."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import ConfigError
from assay.tasks import SpatialTask
from pipelines.generate.records import check_identity, check_strings, read_objects, refuse
from pipelines.generate.relations import check_relation

FILE = "questions.jsonl"


@dataclass(frozen=True)
class Question:
    """A question about images.

    Args:
        id: as in the file, a whole number or a name.
        dataset: name of the dataset.
        question: in words, with its options if it has any.
        image_paths: what it is about, in order; at least one.
        relation: what each image that is drawn for it should show; None if nothing is said.
    """

    id: int | str
    dataset: str
    question: str
    image_paths: tuple[str, ...]
    relation: SpatialTask | None = None


def read_questions(path: Path) -> list[Question]:
    """The questions of a file, in its order.

    Args:
        path: the file, or a folder with a `questions.jsonl`. A question without `dataset` has the folder's name.

    Raises:
        ConfigError: it is missing or empty, or lines of it are malformed; names each line, field and value.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"questions = {path}: there is no {file}; allowed: a JSONL file, or a folder with a {FILE}")
    questions: list[Question] = []
    faults: list[str] = []
    first_lines: dict[tuple[str, str], int] = {}
    for number, values in read_objects(file, ("id", "question", "image_paths"), faults):
        values.setdefault("dataset", file.absolute().parent.name)
        if problems := list(_problems(values)):
            faults += [f"{file}:{number}: {problem}" for problem in problems]
            continue
        one = Question(
            values["id"], values["dataset"], values["question"], tuple(values["image_paths"]), _relation(values)
        )
        if (earlier := first_lines.setdefault((one.dataset, str(one.id)), number)) != number:
            faults.append(f"{file}:{number}: id = {one.id!r} of dataset {one.dataset!r} is on line {earlier} too")
        questions.append(one)
    refuse(faults)
    if not questions:
        raise ConfigError(f"questions = {file} has no line")
    return questions


def _problems(values: dict[str, Any]) -> Iterator[str]:
    yield from check_identity(values, ("id", "question", "image_paths"))
    if not isinstance(values.get("question", "x"), str) or not values.get("question", "x").strip():
        yield f"question = {values['question']!r}; allowed: a string that is not empty"
    if "image_paths" in values:
        yield from check_strings("image_paths", values["image_paths"])
        if values["image_paths"] == []:
            yield "image_paths = []; allowed: at least one"
    yield from check_relation("relation", values.get("relation"))


def _relation(values: dict[str, Any]) -> SpatialTask | None:
    return None if values.get("relation") is None else SpatialTask(**values["relation"])
