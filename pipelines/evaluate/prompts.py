"""GenEval's prompt files: JSONL, a task a line. A wrong line is one prompt's error; the others are evaluated."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import ConfigError
from assay.tasks import GenEvalTask


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
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    texts = [(number, text) for number, text in lines if text.strip()]
    if not texts:
        raise ConfigError(f"prompts = {path}: the file is empty")
    return [parse_line(index, f"{path}:{number}", text) for index, (number, text) in enumerate(texts)]


def parse_line(index: int, where: str, text: str) -> PromptLine:
    """One line of a prompt file, or the content of a `metadata.jsonl`."""
    try:
        metadata = json.loads(text)
        GenEvalTask.from_metadata(metadata)
    except json.JSONDecodeError as error:
        return PromptLine(index, where, {}, f"{where}: not valid JSON: {error}")
    except KeyError as error:
        return PromptLine(index, where, metadata, f"{where}: {error} is missing")
    except (TypeError, AttributeError, IndexError):
        return PromptLine(index, where, {}, f"{where}: not a GenEval task: {text[:100]}")
    if not isinstance(metadata.get("prompt"), str):
        return PromptLine(index, where, metadata, f"{where}: prompt is {metadata.get('prompt')!r}; allowed: a string")
    return PromptLine(index, where, metadata)
