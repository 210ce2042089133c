"""What to draw: a file of prompts, a file of GenEval's tasks, or both, line by line."""

from pathlib import Path

from assay.errors import ConfigError
from pipelines.evaluate.prompts import PromptLine, read_prompt_lines


def read_prompts(prompts_file: Path | None, metadata_file: Path | None) -> list[PromptLine]:
    """All prompts, in order. A line of `metadata_file` that is no task carries its problem along; without
    `metadata_file` there are no tasks, only prompts.

    Raises:
        ConfigError: a file is missing or empty, or the two do not say the same.
    """
    if metadata_file is None:
        assert prompts_file is not None
        texts = _read_texts(prompts_file)
        return [PromptLine(index, f"{prompts_file}:{number}", {"prompt": text}) for index, (number, text) in texts]
    lines = read_prompt_lines(metadata_file)
    if prompts_file is not None:
        _check_equal(prompts_file, metadata_file, lines)
    return lines


def _read_texts(path: Path) -> list[tuple[int, tuple[int, str]]]:
    """(index, (line number, prompt)) of each line that is not blank."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompts_file = {path}: cannot be read: {error}") from error
    texts = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not texts:
        raise ConfigError(f"prompts_file = {path}: the file is empty")
    return list(enumerate(texts))


def _check_equal(prompts_file: Path, metadata_file: Path, lines: list[PromptLine]) -> None:
    texts = _read_texts(prompts_file)
    if len(texts) != len(lines):
        raise ConfigError(f"{prompts_file} has {len(texts)} prompts and {metadata_file} has {len(lines)} tasks")
    for (_, (number, text)), line in zip(texts, lines, strict=True):
        if line.problem is None and line.prompt.strip() != text:
            raise ConfigError(f"{prompts_file}:{number} says {text!r}, and {line.where} says {line.prompt!r}")
