"""The questions of a file, each with its pictures and the mask that its answer is held against."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from assay.errors import ConfigError
from pipelines.spatial_tasks.points import read_answer

Scorer = Literal["correspondence", "difference"]
#: What a task's name begins with -> who judges it.
SCORERS: dict[str, Scorer] = {"t1": "correspondence", "t2a": "correspondence", "t2b": "difference"}
_VIEWS = ("_original.png", "_inpainted.png", ".png")
_MASKS = ("_mask_dialated.png", "_mask.png")


@dataclass(frozen=True)
class Question:
    """One row.

    Args:
        number: of the row.
        id: the row's, or made of its number.
        task: the row's, or as its id begins.
        scorer: who judges it.
        images: in the order in which they are shown.
        is_concatenated: there is one picture, and the query is its right part.
        query: the query picture.
        mask: of the query picture; None if there is none.
        text: what is asked.
        wanted: what should be answered.
        is_whole_frame: the wanted point of a concatenated pair is one of the whole picture.
    """

    number: int
    id: str
    task: str
    scorer: Scorer
    images: tuple[Path, ...]
    is_concatenated: bool
    query: Path
    mask: Path | None
    text: str
    wanted: str
    is_whole_frame: bool


@dataclass(frozen=True)
class Rows:
    """What a file asks, and, of each row that asks nothing that can be understood, why."""

    questions: list[Question]
    left_out: list[str]


def read_rows(path: Path, image_folder: Path, *, compat: bool, limit: int = -1) -> Rows:
    """The questions of a file.

    Args:
        path: JSON, a list of rows.
        image_folder: relative paths are relative to it.
        compat: look for a row's mask as the reference does, even if the row names one.
        limit: only the first so many rows; -1 is all.

    Raises:
        ConfigError: the file cannot be read, or is no list.
    """
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"data_json = {path} cannot be read: {error}") from error
    if not isinstance(rows, list):
        raise ConfigError(f"data_json = {path} holds a {type(rows).__name__}; allowed: a list of questions")
    found = Rows([], [])
    for number, row in enumerate(rows if limit == -1 else rows[:limit]):
        try:
            found.questions.append(_read(row, number, image_folder, compat))
        except (TypeError, ValueError) as error:
            found.left_out.append(f"row {number}: {error}")
    return found


def find_mask(query: Path) -> Path | None:
    """The mask of a query picture by its name: the dilated one first."""
    for view in _VIEWS:
        if query.name.endswith(view):
            candidates = [query.with_name(query.name.removesuffix(view) + mask) for mask in _MASKS]
            return next((candidate for candidate in candidates if candidate.exists()), None)
    return None


def _read(row: Any, number: int, image_folder: Path, compat: bool) -> Question:
    try:
        images = row["image"]
        text, wanted = (turn["value"] for turn in row["conversations"])
        name = str(row.get("id", f"sample_{number}"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"lacks image or the two turns of conversations: {error!r}") from None
    task = str(row.get("task") or name.lower())
    is_concatenated = isinstance(images, str)
    several = [images] if is_concatenated else images
    if not isinstance(several, list) or not all(isinstance(one, str) for one in several):
        raise ValueError(f"image = {images!r}; allowed: two paths, or the path of a concatenated picture")
    if not is_concatenated and len(several) != 2:
        raise ValueError(f"image holds {len(several)} pictures; allowed: two, or the path of a concatenated one")
    if not isinstance(text, str):
        raise ValueError(f"the question is {text!r}; allowed: a text")
    query = row.get("query_original") or (None if is_concatenated else several[-1])
    if query is None:
        raise ValueError("query_original is missing; a concatenated picture needs it, for the mask")
    if "<image>" in text:
        raise ValueError("<image> stands in the question; the service puts pictures before the text itself")
    if not read_answer(str(wanted)).is_read:
        raise ValueError(f"the answer is {wanted!r}; allowed: [(x, y)] or NOT_VISIBLE")
    query_path = image_folder / query
    given = None if compat or not row.get("mask") else image_folder / row["mask"]
    return Question(
        number=number,
        id=name,
        task=task,
        scorer=_scorer(task),
        images=tuple(image_folder / one for one in several),
        is_concatenated=is_concatenated,
        query=query_path,
        mask=given or find_mask(query_path),
        text=text,
        wanted=wanted,
        is_whole_frame=is_concatenated and row.get("answer_frame") == "concat",
    )


def _scorer(task: str) -> Scorer:
    for beginning, scorer in SCORERS.items():
        if task.lower().startswith(beginning):
            return scorer
    raise ValueError(f"task = {task!r}; allowed: what begins with {', '.join(SCORERS)}")
