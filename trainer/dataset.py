"""Batches from a file: images with prompts (supervised fine-tuning), or pairs of images (offline DPO).

JSONL, paths relative to the file: {"image", "prompt"}, or {"chosen", "rejected", "prompt"}; more fields are left alone.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from assay.errors import ConfigError
from generators.trainable import TrainableGenerator
from trainer.algorithms.algorithm import TrainingBatch
from trainer.algorithms.dpo import DpoConfig
from trainer.algorithms.sft import SftConfig
from trainer.config import TrainConfig
from trainer.embeddings_cache import EMPTY, PromptEncoder
from trainer.prompts import PromptTask, stable_seed


@dataclass(frozen=True)
class DataRow:
    """One line: the prompt, and the image to learn from; of a pair, first the better one."""

    prompt: str
    images: tuple[Path, ...]


def read_rows(path: Path, image_fields: Sequence[str]) -> list[DataRow]:
    """Read a data file.

    Raises:
        ConfigError: it is missing or empty, a line lacks a field, or an image is not there; names line and field.
    """
    if not path.is_file():
        raise ConfigError(f"algorithm.data: file {path} does not exist")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            values = json.loads(line)
            row = DataRow(values["prompt"], tuple(path.parent / values[field] for field in image_fields))
        except json.JSONDecodeError as error:
            raise ConfigError(f"algorithm.data: {path}, line {number} is not JSON: {error}") from None
        except (KeyError, TypeError) as error:
            wanted = ", ".join(["prompt", *image_fields])
            raise ConfigError(f"algorithm.data: {path}, line {number} must have the fields {wanted}: {error}") from None
        if missing := [str(file) for file in row.images if not file.is_file()]:
            raise ConfigError(f"algorithm.data: {path}, line {number}: {', '.join(missing)} does not exist")
        rows.append(row)
    if not rows:
        raise ConfigError(f"algorithm.data: {path} has no line")
    return rows


def read_data(config: TrainConfig) -> list[DataRow]:
    """The rows of `algorithm.data`, with the images that the algorithm learns from (see `read_rows`)."""
    assert config.data is not None
    return read_rows(config.data, ["image"] if isinstance(config.algorithm, SftConfig) else ["chosen", "rejected"])


class DatasetSource:
    """Draws rows, without repeats until all have been used; the same for the same seed and epoch on any processes.

    Args:
        config: the whole configuration, its algorithm with `data`.
        accelerator: processes.
        generator: encodes images.
        encoder: encodes prompts.
    """

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, generator: TrainableGenerator, encoder: PromptEncoder
    ) -> None:
        self._config, self._accelerator = config, accelerator
        self._generator, self._encoder = generator, encoder
        algorithm = config.algorithm
        self.rows = read_data(config)
        self._steps = algorithm.optimizer_steps_per_epoch
        if isinstance(algorithm, SftConfig):
            self._per_step, self._size = algorithm.images_per_step, algorithm.micro_batch_size
            self._dropout = algorithm.prompt_dropout
        else:
            assert isinstance(algorithm, DpoConfig)
            assert algorithm.pairs_per_epoch is not None
            self._per_step, self._size = algorithm.pairs_per_epoch // self._steps, algorithm.micro_batch_pairs
            self._dropout = 0.0

    def steps(self, epoch: int) -> Iterator[list[TrainingBatch]]:
        order = self._order(epoch).reshape(self._steps, self._per_step)
        share = self._per_step // self._accelerator.num_processes
        first = self._accelerator.process_index * share
        for step, indices in enumerate(order):
            own = [(int(indices[place]), (epoch, step, place)) for place in range(first, first + share)]
            yield [self._batch(own[start : start + self._size]) for start in range(0, share, self._size)]

    def metrics(self) -> dict[str, Any]:
        return {}

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """(steps * rows a step,) rows of an epoch: the next ones of an endless sequence of shuffles."""
        size = self._steps * self._per_step
        first = epoch * size
        shuffles = range(first // len(self.rows), (first + size - 1) // len(self.rows) + 1)
        rng = [np.random.default_rng((self._config.run.seed, shuffle)) for shuffle in shuffles]
        endless = np.concatenate([own.permutation(len(self.rows)) for own in rng])
        start = first - shuffles[0] * len(self.rows)
        return endless[start : start + size]

    def _batch(self, drawn: Sequence[tuple[int, tuple[int, int, int]]]) -> TrainingBatch:
        rows = [self.rows[index] for index, _ in drawn]
        seeds = [stable_seed("row", self._config.run.seed, *place) for _, place in drawn]
        prompts = [self._prompt(row, seed) for row, seed in zip(rows, seeds, strict=True)]
        columns = [self._encode([row.images[column] for row in rows]) for column in range(len(rows[0].images))]
        return TrainingBatch(
            seeds=seeds,
            prompts=self._encoder(prompts),
            weights=torch.ones(len(rows), device=self._accelerator.device),
            clean=columns[0],
            rejected=columns[1] if len(columns) > 1 else None,
        )

    def _prompt(self, row: DataRow, seed: int) -> PromptTask:
        dropped = np.random.default_rng(seed).random() < self._dropout
        return EMPTY if dropped else PromptTask(row.prompt, None)

    def _encode(self, paths: Sequence[Path]) -> Tensor:
        size = self._config.model.width, self._config.model.height
        return self._generator.encode_images([_read(path, size) for path in paths])


def _read(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(height, width, 3) uint8, resized where it has another size."""
    try:
        image = Image.open(path).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise ConfigError(f"algorithm.data: {path} is not an image that can be read: {error}") from error
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.LANCZOS))
