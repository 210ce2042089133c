"""Prompts to train on, and how an epoch draws groups from them.

A prompt file is JSONL in GenEval's form, one task a line; `references` names pictures for editing models, relative to
the file. A group is `group_size` samples of one prompt; every group
has an explicit id, so that two groups of equal prompts never merge, and its samples lie together on one process.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from assay.errors import ConfigError
from assay.tasks import GenEvalTask


@dataclass(frozen=True)
class PromptTask:
    """A prompt, the task that its images are scored on, if they are, and an editing model's reference images."""

    prompt: str
    task: GenEvalTask | None
    references: tuple[Path, ...] = ()


@dataclass(frozen=True)
class RolloutSample:
    """One image to be sampled: which prompt, in which group, and the seeds of its noise and of its group's draws."""

    prompt: PromptTask
    group: int
    seed: int
    group_seed: int

    def generator(self) -> torch.Generator:
        """A fresh CPU generator, the same for the same sample on any process and after any resume."""
        return torch.Generator().manual_seed(self.seed)

    def group_generator(self) -> torch.Generator:
        """Likewise, the same for all samples of the group."""
        return torch.Generator().manual_seed(stable_seed("start", self.group_seed))


def read_prompts(path: Path) -> list[PromptTask]:
    """Read a GenEval JSONL file.

    Raises:
        ConfigError: the file is missing or empty, a line is not a task, or its references cannot be read or are not
            like the others'; the message names file, line and field.
    """
    if not path.is_file():
        raise ConfigError(f"prompts: file {path} does not exist")
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            references = listed_references(row, path.parent)
            prompts.append(PromptTask(row["prompt"], GenEvalTask.from_metadata(row), references))
        except json.JSONDecodeError as error:
            raise ConfigError(f"prompts: {path}, line {number} is not JSON: {error}") from None
        except KeyError as error:
            raise ConfigError(f"prompts: {path}, line {number} lacks the field {error}") from None
        except TypeError as error:
            raise ConfigError(f"prompts: {path}, line {number}: {error}") from None
    if not prompts:
        raise ConfigError(f"prompts: {path} has no line")
    check_references(f"prompts: {path}", {number: prompt.references for number, prompt in enumerate(prompts, 1)})
    return prompts


def listed_references(row: dict[str, Any], folder: Path) -> tuple[Path, ...]:
    """Take `references` out of a line of a file in `folder`.

    Raises:
        TypeError: it is no list of texts.
    """
    names = row.pop("references", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"references is {names!r}, not a list of file names")
    return tuple(folder / name for name in names)


def check_references(where: str, lines: Mapping[int, Sequence[Path]]) -> None:
    """Refuse now what cannot share a batch: any two lines may meet in one, in the middle of an epoch.

    Args:
        where: names the file.
        lines: number of a line -> its reference pictures.

    Raises:
        ConfigError: one is missing or unreadable, or they are not as many as those of the first line and as large.
    """
    known: dict[Path, str] = {}  # pictures may serve many lines
    first, its_sizes = next(iter(lines)), ""
    for number, references in lines.items():
        if missing := [str(file) for file in references if not file.is_file()]:
            raise ConfigError(f"{where}, line {number}: references {', '.join(missing)} do not exist")
        for file in references:
            if file not in known:
                known[file] = _size(file, f"{where}, line {number}")
        sizes = " ".join(known[file] for file in references) or "none"
        its_sizes = its_sizes or sizes
        if sizes != its_sizes:
            raise ConfigError(
                f"{where}: references of all prompts must have the same number and sizes; "
                f"line {first} has {its_sizes}, line {number} has {sizes}"
            )


def _size(picture: Path, where: str) -> str:
    """Width x height, of which the header alone is read."""
    try:
        with Image.open(picture) as image:
            return f"{image.width}x{image.height}"
    except OSError as error:
        raise ConfigError(f"{where}: reference {picture} is not an image that can be read: {error}") from error


def draw_epoch(
    prompts: list[PromptTask], *, epoch: int, num_groups: int, group_size: int, seed: int
) -> list[RolloutSample]:
    """All samples of an epoch over all processes, group by group; the same for the same seed and epoch.

    Within an epoch, prompts are drawn without repeats until all have been used.
    """
    rng = np.random.default_rng((seed, epoch))
    order = np.concatenate([rng.permutation(len(prompts)) for _ in range(-(-num_groups // len(prompts)))])
    return [
        RolloutSample(
            prompts[order[index]],
            group=epoch * num_groups + index,
            seed=stable_seed(seed, epoch, index, member),
            group_seed=stable_seed("group", seed, epoch, index),
        )
        for index in range(num_groups)
        for member in range(group_size)
    ]


def draw_evaluation(prompts: list[PromptTask], *, number: int, seed: int) -> list[RolloutSample]:
    """`number` held-out (prompt, seed) pairs: prompts in turn, with seeds that no training epoch draws."""
    return [
        RolloutSample(prompts[index % len(prompts)], index, stable_seed("evaluation", seed, index), group_seed=0)
        for index in range(number)
    ]


def stable_seed(*identity: int | str) -> int:
    """A 63-bit seed from what identifies a sample; equal on all machines."""
    digest = hashlib.sha256(json.dumps(identity).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
