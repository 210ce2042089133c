"""What is sent while measuring: images of a folder or made here, and the tasks that go with them, again and again."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from assay.errors import InvalidRequestError
from assay.tasks import GenEvalTask, Task

#: Different images that are made, so that requests are not all the same.
MADE_IMAGES = 32
SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Request:
    """One call."""

    images: Sequence[Any]
    prompts: Sequence[str]
    tasks: Sequence[Task | None]


@dataclass(frozen=True)
class Payload:
    """Images and (prompt, task) pairs, both repeated from their beginnings."""

    images: Sequence[Any]
    asked: Sequence[tuple[str, Task | None]]

    def requests(self, batch: int) -> Iterator[Request]:
        """Without end, `batch` images each."""
        images, asked = itertools.cycle(self.images), itertools.cycle(self.asked)
        while True:
            prompts, tasks = zip(*itertools.islice(asked, batch), strict=True)
            yield Request(list(itertools.islice(images, batch)), prompts, tasks)


def made_images(content: Literal["noise", "solid"], width: int, height: int, batch: int) -> list[Any]:
    """Arrays (height, width, 3): noise, or one colour each. The same at every run."""
    random = np.random.default_rng(0)
    size = (height, width, 3) if content == "noise" else (1, 1, 3)
    drawn = [random.integers(0, 256, size, dtype=np.uint8) for _ in range(max(batch, MADE_IMAGES))]
    return [np.ascontiguousarray(np.broadcast_to(image, (height, width, 3))) for image in drawn]


def images_of(folder: Path) -> list[bytes]:
    """The files of a folder, which are sent as they are. Raises: InvalidRequestError: it holds no image."""
    try:
        files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
        contents = [path.read_bytes() for path in files]
    except OSError as error:
        raise InvalidRequestError(
            f"cannot read {error.filename}: {error.strerror}", reason="FILE_UNREADABLE"
        ) from error
    if not contents:
        raise InvalidRequestError(f"{folder} holds no image; looked for {', '.join(SUFFIXES)}")
    return contents


def tasks_of(path: Path) -> list[tuple[str, Task | None]]:
    """(prompt, task) of each line of GenEval metadata. Raises: InvalidRequestError: names the line."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}", reason="FILE_UNREADABLE") from error
    asked = [_asked(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not asked:
        raise InvalidRequestError(f"{path} holds no task")
    return asked


def _asked(line: str, where: str) -> tuple[str, Task | None]:
    try:
        metadata: Mapping[str, Any] = json.loads(line)
        return str(metadata.get("prompt", "")), GenEvalTask.from_metadata(metadata)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise InvalidRequestError(f"{where} is no GenEval metadata: {error!r}") from error
