"""Conversations about pictures, from files in LLaVA's form:

    [{"id": "1", "image": "a.png", "conversations": [{"from": "human", "value": "<image> Is it red?"},
                                                     {"from": "gpt", "value": "yes"}]}, ...]

`image` is a path or a list of them, one for each `<image>` in what is said; where none stands there, all of them come
first. `kinds` may name the kind of each answer,
by which held-out answers are counted. More fields are left alone.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from assay.errors import ConfigError
from assay.questions import IMAGE, after_images, content_parts

_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
ANSWER = "answer"


@dataclass(frozen=True)
class Conversation:
    """Pictures, and what is said about them.

    Args:
        id: for messages.
        images: files, in the order of their marks.
        said: question, answer, question, answer, ...
        kinds: of each answer.
    """

    id: str
    images: tuple[Path, ...]
    said: tuple[str, ...]
    kinds: tuple[str, ...]

    @property
    def num_answers(self) -> int:
        return len(self.kinds)

    def images_until(self, answer: int) -> tuple[Path, ...]:
        """The pictures that were shown before an answer, from 0."""
        return self.images[: sum(text.count(IMAGE) for text in self.said[: 2 * answer + 1])]

    def messages(self, length: int | None = None) -> list[dict[str, Any]]:
        """The first `length` messages, as chat templates take them."""
        return [
            {"role": "assistant" if number % 2 else "user", "content": content_parts(text, {"type": "image"})}
            for number, text in enumerate(self.said[:length])
        ]


def read_conversations(
    path: Path, images: Path | None = None, choose: Callable[[list[Any]], list[Any]] = list
) -> list[Conversation]:
    """Read a file, or a part of it.

    Args:
        path: `.json` with a list, or `.jsonl` with an object a line.
        images: folder that image paths are relative to; None: the file's.
        choose: the part, of all entries; the others are not looked at, nor are their pictures.

    Raises:
        ConfigError: it cannot be read or is empty, an entry is not of this form, or one of its pictures is missing or
            none; names file, entry and what is wrong.
    """
    entries = _read(path)
    if not entries:
        raise ConfigError(f"data: {path} has no conversations")
    found = []
    for index, entry in choose(list(enumerate(entries))):
        try:
            found.append(_conversation(entry, images or path.parent))
        except ValueError as problem:
            name = entry.get("id", index) if isinstance(entry, dict) else index
            raise ConfigError(f"data: {path}, entry {index} (id {name!r}): {problem}") from None
    return found


def open_picture(path: Path) -> Image.Image:
    """A picture in RGB, read to its end.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return Image.open(path).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"data: image {path} cannot be read: {error}") from error


def _read(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
        lines = [line for line in text.split("\n") if line.strip()]
        values = [json.loads(line) for line in lines] if path.suffix == ".jsonl" else json.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"data: {path} cannot be read: {error}") from error
    if not isinstance(values, list):
        raise ConfigError(f"data: {path} holds a {type(values).__name__}; allowed: a list of conversations")
    return values


def _conversation(entry: Any, folder: Path) -> Conversation:
    """Raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError(f"a {type(entry).__name__}; allowed: an object with image and conversations")
    said = list(_said(entry))
    named = entry.get("image")
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"image = {named!r}; allowed: a path, or a list of them")
    marks = sum(text.count(IMAGE) for text in said)
    if not marks:  # spatial data has its marks put in by whoever reads it
        marks, said[0] = len(names), after_images(said[0], len(names))
    if marks != len(names):
        raise ValueError(f"{len(names)} images, and {IMAGE} stands in its conversations {marks} times")
    if any(IMAGE in text for text in said[1::2]):
        raise ValueError(f"{IMAGE} stands in an answer")
    kinds = entry.get("kinds", [ANSWER] * (len(said) // 2))
    if not isinstance(kinds, list) or len(kinds) != len(said) // 2:
        raise ValueError(f"kinds = {kinds!r}; allowed: one for each of the {len(said) // 2} answers")
    images = tuple(folder / name for name in names)
    for image in images:
        _check_picture(image)
    return Conversation(str(entry.get("id", "")), images, tuple(said), tuple(map(str, kinds)))


def _said(entry: dict[str, Any]) -> Iterator[str]:
    turns = entry.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise ValueError("conversations is missing, or empty")
    for number, turn in enumerate(turns):
        speaker = _SPEAKERS.get(str(turn.get("from"))) if isinstance(turn, dict) else None
        if speaker != ("assistant" if number % 2 else "user"):
            raise ValueError(f"conversations[{number}] is not by {'gpt' if number % 2 else 'human'}: {turn!r}")
        if not isinstance(turn.get("value"), str):
            raise ValueError(f"conversations[{number}].value = {turn.get('value')!r}; allowed: a text")
        yield turn["value"]
    if len(turns) % 2:
        raise ValueError("conversations ends with a question")


def _check_picture(path: Path) -> None:
    """That it is there, and begins like a picture; all of it is read when it is needed."""
    try:
        with Image.open(path):
            pass
    except FileNotFoundError:
        raise ValueError(f"image {path} does not exist") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {path} cannot be read: {error}") from None
