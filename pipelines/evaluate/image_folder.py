"""Images already made, as GenEval's and Flow-GRPO's scripts lay them out: `<index>/samples/<k>.png` and, beside the
samples, `<index>/metadata.jsonl` with the task."""

from dataclasses import dataclass
from pathlib import Path

from assay.errors import ConfigError
from pipelines.evaluate.prompts import PromptLine, parse_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class PromptImages:
    """A prompt and the files of its images, sorted by name."""

    line: PromptLine
    files: tuple[Path, ...]


def read_image_folder(root: Path) -> list[PromptImages]:
    """All prompts of a folder, sorted by index. One without metadata or without images carries its problem along.

    Raises:
        ConfigError: there is none at all.
    """
    folders = sorted((path for path in root.glob("*") if path.name.isdigit() and path.is_dir()), key=_index)
    if not folders:
        raise ConfigError(f"images = {root}: there is no folder <index>/samples in it, e.g. {root}/00000/samples")
    return [_read(folder) for folder in folders]


def sample_number(path: Path, otherwise: int) -> int:
    """Which of the prompt's images a file is: its name where that is a number."""
    return int(path.stem) if path.stem.isdigit() else otherwise


def _index(folder: Path) -> int:
    return int(folder.name)


def _read(folder: Path) -> PromptImages:
    found = [path for path in (folder / "samples").glob("*") if path.suffix.lower() in SUFFIXES]
    files = tuple(sorted(found, key=lambda path: (sample_number(path, len(found)), path.name)))
    metadata = folder / "metadata.jsonl"
    if not metadata.is_file():
        return PromptImages(PromptLine(_index(folder), str(metadata), {}, f"{metadata}: there is no such file"), files)
    line = parse_line(_index(folder), str(metadata), metadata.read_bytes())
    if line.problem is None and not files:
        line = PromptLine(line.index, line.where, line.metadata, f"{folder / 'samples'}: there are no images")
    return PromptImages(line, files)
