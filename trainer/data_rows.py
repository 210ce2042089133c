"""Lines of a data file: images with prompts (supervised fine-tuning), or pairs of images (offline preferences).

JSONL, paths relative to the file: {"image", "prompt"}, or {"chosen", "rejected", "prompt"}. `references` lists the
pictures that an editing model starts from. A GenEval task, in the line itself or in its `metadata`, says what services
should judge an image by; more fields are left alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from assay.errors import ConfigError
from assay.tasks import GenEvalTask
from trainer.algorithms.captioned import CaptionedConfig
from trainer.config import TrainConfig
from trainer.prompts import PromptTask, check_references, listed_references


@dataclass(frozen=True)
class DataRow:
    """One line: the prompt, the image to learn from (of a pair, first the better one), its task and its references."""

    prompt: str
    images: tuple[Path, ...]
    task: GenEvalTask | None = None
    references: tuple[Path, ...] = ()

    @property
    def asked(self) -> PromptTask:
        """What the model is asked for."""
        return PromptTask(self.prompt, None, self.references)


def read_rows(path: Path, image_fields: Sequence[str]) -> list[DataRow]:
    """Read a data file.

    Raises:
        ConfigError: it is missing or empty, a line lacks a field, an image is not there, or the lines' references are
            not alike; names line and field.
    """
    if not path.is_file():
        raise ConfigError(f"algorithm.data: file {path} does not exist")
    rows: dict[int, DataRow] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            texts = {field: values[field] for field in ("prompt", *image_fields)}
            if others := [field for field, text in texts.items() if not isinstance(text, str)]:
                raise TypeError(f"{others[0]} is {texts[others[0]]!r}, not a text")
            images = tuple(path.parent / texts[field] for field in image_fields)
            references = listed_references(values, path.parent)
            row = DataRow(texts["prompt"], images, _task(values.get("metadata") or values), references)
        except json.JSONDecodeError as error:
            raise ConfigError(f"algorithm.data: {path}, line {number} is not JSON: {error}") from None
        except (AttributeError, KeyError, TypeError) as error:
            wanted = ", ".join(["prompt", *image_fields])
            raise ConfigError(f"algorithm.data: {path}, line {number} must have the fields {wanted}: {error}") from None
        if missing := [str(file) for file in row.images if not file.is_file()]:
            raise ConfigError(f"algorithm.data: {path}, line {number}: {', '.join(missing)} does not exist")
        rows[number] = row
    if not rows:
        raise ConfigError(f"algorithm.data: {path} has no line")
    check_references(f"algorithm.data: {path}", {number: row.references for number, row in rows.items()})
    return list(rows.values())


def read_data(config: TrainConfig) -> list[DataRow]:
    """The rows of `algorithm.data`, with the images that the algorithm learns from (see `read_rows`)."""
    assert config.data is not None
    captioned = isinstance(config.algorithm, CaptionedConfig)
    return read_rows(config.data, ["image"] if captioned else ["chosen", "rejected"])


def _task(values: Any) -> GenEvalTask | None:
    return GenEvalTask.from_metadata(values) if {"tag", "include"} <= values.keys() else None


def read_picture(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(height, width, 3) uint8: as large as `size`, width and height in pixels, cut to that shape around its centre.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        image = Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise ConfigError(f"algorithm.data: {path} is not an image that can be read: {error}") from error
    return np.asarray(image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS))
