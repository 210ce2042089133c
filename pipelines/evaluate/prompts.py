"""GenEval's prompt files: JSONL, a task a line. A wrong line is one prompt's error; the others are evaluated."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import ConfigError
from assay.tasks import GENEVAL_TAGS


@dataclass(frozen=True)
class PromptLine:
    """One line.

    Args:
        index: from 0; names the prompt's folder.
        where: file and line, for messages.
        metadata: the task in GenEval's form; {} for a line that cannot be read.
        problem: what is wrong with the line, None if it can be asked for.
    """

    index: int
    where: str
    metadata: dict[str, Any]
    problem: str | None = None

    @property
    def prompt(self) -> str:
        return str(self.metadata.get("prompt", ""))

    @property
    def tag(self) -> str:
        return str(self.metadata.get("tag", ""))


def read_prompt_lines(path: Path) -> list[PromptLine]:
    """Read a prompt file; blank lines count in no index.

    Raises:
        ConfigError: it is missing or empty.
    """
    if not path.is_file():
        raise ConfigError(f"prompts = {path}: there is no such file")
    # bytes.split, since str.splitlines would also split at U+2028
    texts = [(n, text) for n, text in enumerate(path.read_bytes().split(b"\n"), start=1) if text.strip()]
    if not texts:
        raise ConfigError(f"prompts = {path}: the file is empty")
    return [parse_line(index, f"{path}:{number}", text) for index, (number, text) in enumerate(texts)]


def parse_line(index: int, where: str, text: bytes) -> PromptLine:
    """One line of a prompt file, or the content of a `metadata.jsonl`."""
    try:
        metadata = json.loads(text)
    except ValueError as error:  # also what is not UTF-8
        return PromptLine(index, where, {}, f"{where}: not valid JSON: {error}")
    if not isinstance(metadata, dict):
        return PromptLine(index, where, {}, f"{where}: a {type(metadata).__name__}; allowed: a GenEval task")
    problem = next(_problems(metadata), None)
    return PromptLine(index, where, metadata, None if problem is None else f"{where}: {problem}")


def _problems(metadata: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a task, as far as can be said without the service: it knows the classes."""
    for name in ("tag", "include", "prompt"):
        if name not in metadata:
            yield f"{name} is missing"
    if metadata.get("tag") not in GENEVAL_TAGS:
        yield f"tag = {metadata['tag']!r}; allowed: {', '.join(GENEVAL_TAGS)}"
    if not isinstance(metadata["prompt"], str):
        yield f"prompt = {metadata['prompt']!r}; allowed: a string"
    for kind in ("include", "exclude"):
        clauses = metadata.get(kind, [])
        if not isinstance(clauses, list) or (kind == "include" and not clauses):
            yield f"{kind} = {clauses!r}; allowed: a list of clauses"
        for number, clause in enumerate(clauses):
            yield from _problems_of_clause(f"{kind}[{number}]", clause)


def _problems_of_clause(field: str, clause: Any) -> Iterator[str]:
    if not isinstance(clause, dict) or not isinstance(clause.get("class"), str):
        yield f"{field} = {clause!r}; allowed: an object with a class"
    elif not isinstance(clause.get("count", 1), int) or clause.get("count", 1) < 1:
        yield f"{field}.count = {clause['count']!r}; allowed: a whole number from 1"
