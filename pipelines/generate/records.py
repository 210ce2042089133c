"""The planners' files, `<root>/<planning model>/results.jsonl`: a sample a line, checked before anything is done."""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import ConfigError
from assay.tasks import SpatialTask
from pipelines.generate.relations import check_relations, read_relations

FILE = "results.jsonl"
REQUIRED = ("id", "dataset", "image_paths", "instructions")
#: Names that the run itself writes beside the samples' folders.
RESERVED = ("stats.json", "spatial_scores.json", "run.log")
#: What file systems take, less what temporary names add.
LONGEST_NAME = 200
#: More faults than these are counted, not listed.
SHOWN_FAULTS = 20


@dataclass(frozen=True)
class Record:
    """A sample: the images that a question is about, and what a planner wants to see of them.

    Args:
        id: as in the file, a whole number or a name; names the sample's folder.
        dataset: name of the dataset.
        image_paths: references, in the order in which the instructions speak of them.
        instructions: one image is made for each; may be empty.
        relations: what the image of each instruction should show, None where nothing is said of it; None if the
            record says nothing, or was not asked.
    """

    id: int | str
    dataset: str
    image_paths: tuple[str, ...]
    instructions: tuple[str, ...]
    relations: tuple[SpatialTask | None, ...] | None = None


def planning_models(root: Path) -> list[str]:
    """The folders below `root` that hold a planner's file, sorted.

    Raises:
        ConfigError: there is none.
    """
    names = sorted(path.parent.name for path in root.glob(f"*/{FILE}"))
    if not names:
        raise ConfigError(f"predicted_instructions_root = {root} has no folder with a {FILE} in it")
    return names


def read_records(root: Path, planning_model: str, *, with_relations: bool = False) -> list[Record]:
    """The records of one planning model, in the file's order.

    Args:
        root: of the planners' folders.
        planning_model: whose.
        with_relations: read `relation`, too; else it is a key like any other, and may be anything.

    Raises:
        ConfigError: the file is missing, or lines of it are malformed; names each line, field and value.
    """
    path = root / planning_model / FILE
    if not path.is_file():
        there = ", ".join(sorted(found.parent.name for found in root.glob(f"*/{FILE}"))) or "none"
        raise ConfigError(f"planning_model = {planning_model!r}: there is no {path}; allowed: {there}")
    records: list[Record] = []
    faults: list[str] = []
    first_lines: dict[tuple[str, str], int] = {}
    for number, values in read_objects(path, REQUIRED, faults):
        problems = list(_problems(values))
        if with_relations and not problems:
            problems = list(check_relations(values.get("relation"), len(values["instructions"])))
        if problems:
            faults += [f"{path}:{number}: {problem}" for problem in problems]
            continue
        record = _record(values, with_relations=with_relations)
        if (earlier := first_lines.setdefault((record.dataset, str(record.id)), number)) != number:
            faults.append(f"{path}:{number}: id = {record.id!r} of dataset {record.dataset!r} is on line {earlier} too")
        records.append(record)
    refuse(faults)
    return records


def _record(values: dict[str, Any], *, with_relations: bool) -> Record:
    relations = read_relations(values.get("relation"), len(values["instructions"])) if with_relations else None
    paths, instructions = tuple(values["image_paths"]), tuple(values["instructions"])
    return Record(values["id"], values["dataset"], paths, instructions, relations)


def refuse(faults: list[str]) -> None:
    """Raise ConfigError where there are faults, with a line each."""
    if faults:
        more = [f"... and {len(faults) - SHOWN_FAULTS} more"] if len(faults) > SHOWN_FAULTS else []
        raise ConfigError("\n".join(faults[:SHOWN_FAULTS] + more))


def read_objects(path: Path, required: Sequence[str], faults: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is a JSON object; the others go to `faults`.

    Args:
        path: of the file.
        required: what an object should hold, for messages.
        faults: a line each is added.
    """
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):  # splitlines would also split at U+2028
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            faults.append(f"{path}:{number}: not valid JSON: {error}")
            continue
        if isinstance(values, dict):
            yield number, values
        else:
            faults.append(f"{path}:{number}: a {type(values).__name__}; allowed: an object with {', '.join(required)}")


def _problems(values: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a record. Keys that we do not read are left alone: planners write more than we need."""
    yield from check_identity(values, REQUIRED)
    for name in ("image_paths", "instructions"):
        if name in values:
            yield from check_strings(name, values[name])


def check_identity(values: dict[str, Any], required: Sequence[str]) -> Iterator[str]:
    """What is missing, and what is wrong with `id` and `dataset`, which name folders."""
    for name in required:
        if name not in values:
            close = difflib.get_close_matches(name, [key for key in values if key not in required], n=1)
            yield f"{name} is missing" + (f"; there is an unknown key {close[0]!r} instead" if close else "")
    if isinstance(values.get("id"), bool) or not isinstance(values.get("id", ""), int | str):
        yield f"id = {values['id']!r}; allowed: a whole number or a string"
    if not isinstance(values.get("dataset", ""), str):
        yield f"dataset = {values['dataset']!r}; allowed: a string"
    for name in ("id", "dataset"):
        if name in values and not _is_folder_name(str(values[name])):
            yield f"{name} = {values[name]!r} cannot name a folder"


def check_strings(name: str, values: Any) -> Iterator[str]:
    """What is wrong with a list of strings."""
    if not isinstance(values, list):
        yield f"{name} = {values!r}; allowed: a list of strings"
        return
    for index, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            yield f"{name}[{index}] = {value!r}; allowed: a string that is not empty"


def _is_folder_name(name: str) -> bool:
    if not 0 < len(name.encode()) <= LONGEST_NAME or name.startswith("."):
        return False
    return not set(name) & set("/\\\0\n") and name not in RESERVED
