"""Batches from a file of images with prompts, or of pairs of images (see `trainer.data_rows`)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from assay.rewards import RewardSet
from generators.opened import OpenedPipeline
from trainer.algorithms.algorithm import TrainingBatch
from trainer.algorithms.captioned import CaptionedConfig
from trainer.algorithms.pairs import PairsConfig
from trainer.algorithms.showo_dpo import ShowoDpoConfig
from trainer.config import TrainConfig
from trainer.data_rows import DataRow, read_data, read_picture
from trainer.embeddings_cache import EMPTY, PromptEncoder
from trainer.pair_judge import PairJudge
from trainer.prompts import PromptTask, stable_seed

#: A row's number in the file, and where in the run it is used.
_Drawn = Sequence[tuple[int, tuple[int, int, int]]]


class DatasetSource:
    """Draws rows, without repeats until all have been used; the same for the same seed and epoch on any processes.

    Args:
        config: the whole configuration, its algorithm with `data`.
        accelerator: processes.
        generator: encodes images.
        encoder: encodes prompts.
        rewards: the services, where they have a say in what pairs count.
    """

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        generator: OpenedPipeline,
        encoder: PromptEncoder,
        rewards: RewardSet | None,
    ) -> None:
        self._config, self._accelerator = config, accelerator
        self._generator, self._encoder = generator, encoder
        algorithm = config.algorithm
        self.rows = read_data(config)
        self._steps = algorithm.optimizer_steps_per_epoch
        self._image_size = config.model.width, config.model.height
        self._judge = None
        if isinstance(algorithm, ShowoDpoConfig) and algorithm.guidance is not None:
            assert rewards is not None
            self._judge = PairJudge(algorithm.guidance, rewards, self._image_size)
        if isinstance(algorithm, CaptionedConfig):
            self._per_step, self._size = algorithm.images_per_step, algorithm.micro_batch_size
            self._dropout = algorithm.prompt_dropout
        else:
            assert isinstance(algorithm, PairsConfig)
            assert algorithm.pairs_per_epoch is not None
            self._per_step, self._size = algorithm.pairs_per_epoch // self._steps, algorithm.micro_batch_pairs
            self._dropout = 0.0

    @property
    def prompts(self) -> list[PromptTask]:
        """All that may be asked for in the run."""
        asked = [row.asked for row in self.rows]
        return asked if self._dropout == 0 else [*asked, *map(_without_text, asked)]

    def steps(self, epoch: int) -> Iterator[list[TrainingBatch]]:
        order = self._order(epoch).reshape(self._steps, self._per_step)
        share = self._per_step // self._accelerator.num_processes
        first = self._accelerator.process_index * share
        for step, indices in enumerate(order):
            own = [(int(indices[place]), (epoch, step, place)) for place in range(first, first + share)]
            parts = [own[start : start + self._size] for start in range(0, share, self._size)]
            weights = [self._weights(part) for part in parts]  # all are being scored before the first is waited for
            yield [self._batch(part, own_weights()) for part, own_weights in zip(parts, weights, strict=True)]

    def metrics(self) -> dict[str, Any]:
        return {} if self._judge is None else self._judge.metrics(self._accelerator)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """(steps * rows a step,) rows of an epoch: the next ones of an endless sequence of shuffles."""
        size = self._steps * self._per_step
        first = epoch * size
        shuffles = range(first // len(self.rows), (first + size - 1) // len(self.rows) + 1)
        rng = [np.random.default_rng((self._config.run.seed, shuffle)) for shuffle in shuffles]
        endless = np.concatenate([own.permutation(len(self.rows)) for own in rng])
        start = first - shuffles[0] * len(self.rows)
        return endless[start : start + size]

    def _weights(self, drawn: _Drawn) -> Callable[[], Tensor]:
        if self._judge is None:
            return lambda: torch.ones(len(drawn))
        # a row that is drawn twice within one batch is one row for the judge
        numbers = [index for index, _ in drawn]
        distinct = list(dict.fromkeys(numbers))
        found = self._judge.submit({index: self.rows[index] for index in distinct})
        return lambda: found()[[distinct.index(number) for number in numbers]]

    def _batch(self, drawn: _Drawn, weights: Tensor) -> TrainingBatch:
        rows = [self.rows[index] for index, _ in drawn]
        seeds = [stable_seed("row", self._config.run.seed, *place) for _, place in drawn]
        prompts = [self._prompt(row, seed) for row, seed in zip(rows, seeds, strict=True)]
        columns = [self._encode([row.images[column] for row in rows]) for column in range(len(rows[0].images))]
        return TrainingBatch(
            seeds=seeds,
            prompts=self._encoder(prompts),
            weights=weights.to(self._accelerator.device),
            clean=columns[0],
            rejected=columns[1] if len(columns) > 1 else None,
        )

    def _prompt(self, row: DataRow, seed: int) -> PromptTask:
        dropped = np.random.default_rng(seed).random() < self._dropout
        return _without_text(row.asked) if dropped else row.asked

    def _encode(self, paths: Sequence[Path]) -> Tensor:
        return self._generator.encode_images([read_picture(path, self._image_size) for path in paths])


def _without_text(asked: PromptTask) -> PromptTask:
    """The prompt is dropped; what an editing model starts from is not."""
    return replace(asked, prompt=EMPTY.prompt)
