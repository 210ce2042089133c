"""Draws a prompt's candidates.

0000/final.png       the finished picture of the first candidate
0000/step_07.png     its picture after seven steps: what the sampler then held to be the whole picture
drawn.json           seeds and files of all candidates
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from assay.errors import ConfigError
from generators.precision import Precision, weights_dtype
from generators.showo.pipeline import ShowoPipeline
from generators.showo.sampling_settings import SamplingSettings
from generators.text_to_image import TextToImage, load_pipeline
from pipelines.engine.stage import UnitError, Workplace
from pipelines.engine.unit import Unit, stable_seed

STAGE = "draw"
FILE = "drawn.json"


class CandidateSource(Protocol):
    """Draws candidates of one prompt side by side."""

    @property
    def num_steps(self) -> int:
        """Of the sampler; 0 where it is not known."""
        ...

    def draw(self, prompt: str, seeds: Sequence[int]) -> Iterator[tuple[int | None, list[NDArray[np.uint8]]]]:
        """(step from 1, a picture of each seed) for steps that are kept, then (None, the finished pictures)."""
        ...


class SteppedCandidates:
    """Of Show-o, whose unfinished pictures can be looked at.

    Args:
        pipeline: the generator.
        sampling: how to draw.
        steps: those that are kept, from 1.
        grid: tokens in a column and in a row.
        max_sequence_length: of a text; None for the model's own.

    Raises:
        ConfigError: there is no such step.
    """

    def __init__(
        self,
        pipeline: ShowoPipeline,
        sampling: SamplingSettings,
        steps: Sequence[int] | str,
        grid: tuple[int, int],
        max_sequence_length: int | None = None,
    ) -> None:
        self._pipeline, self._sampling, self._grid = pipeline, sampling, grid
        self._max_sequence_length = max_sequence_length
        self.num_steps = sampling.num_steps
        self._steps = frozenset(range(1, self.num_steps + 1) if isinstance(steps, str) else steps)
        if wrong := sorted(step for step in self._steps if not 1 <= step <= self.num_steps):
            raise ConfigError(f"steps names {wrong[0]}; allowed: 1 to {self.num_steps}, the sampler's")

    def draw(self, prompt: str, seeds: Sequence[int]) -> Iterator[tuple[int | None, list[NDArray[np.uint8]]]]:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        run = self._pipeline.start(
            [prompt] * len(seeds), generators, self._sampling, max_sequence_length=self._max_sequence_length
        )
        while not run.finished:
            step = run.step()
            if step.index + 1 in self._steps:
                yield step.index + 1, self._pipeline.decode(step.codes, self._grid)
        yield None, self._pipeline.decode(run.codes, self._grid)


class FinishedCandidates:
    """Of any text-to-image model."""

    num_steps = 0

    def __init__(self, model: TextToImage) -> None:
        self._model = model

    def draw(self, prompt: str, seeds: Sequence[int]) -> Iterator[tuple[int | None, list[NDArray[np.uint8]]]]:
        yield None, [np.asarray(image) for image in self._model.generate([prompt] * len(seeds), seeds)]


class DrawWorker:
    """Keeps a model loaded.

    Args:
        source: draws.
        batch_size: candidates in one pass.
    """

    def __init__(self, source: CandidateSource, batch_size: int) -> None:
        self._source = source
        self._batch_size = batch_size

    def run(self, unit: Unit, workplace: Workplace) -> None:
        if unit.locations["problem"]:
            raise UnitError(unit.locations["problem"])
        numbers = range(unit.inputs["num_candidates"])
        seeds = [candidate_seed(unit, number) for number in numbers]
        candidates: list[dict[str, Any]] = [{"seed": seed, "steps": {}} for seed in seeds]
        for start in range(0, len(seeds), self._batch_size):
            part = numbers[start : start + self._batch_size]
            for step, pictures in self._source.draw(unit.inputs["metadata"]["prompt"], [seeds[n] for n in part]):
                for number, picture in zip(part, pictures, strict=True):
                    file = _save(workplace.folder, number, step, picture)
                    if step is None:
                        candidates[number]["final"] = file
                    else:
                        candidates[number]["steps"][str(step)] = file
        record = {"num_steps": self._source.num_steps, "candidates": candidates}
        (workplace.folder / FILE).write_text(json.dumps(record, indent=1) + "\n")


def candidate_seed(unit: Unit, candidate: int) -> int:
    """Of the noise of a candidate; the same in a larger set, and another than any that `assay best-of-n` draws."""
    return stable_seed("verifier data", unit.inputs["seed"], unit.item, candidate)


def _save(folder: Path, number: int, step: int | None, picture: NDArray[np.uint8]) -> str:
    """Write a picture, and return its path relative to the folder."""
    name = f"{number:04d}/final.png" if step is None else f"{number:04d}/step_{step:02d}.png"
    (folder / name).parent.mkdir(exist_ok=True)
    Image.fromarray(picture).save(folder / name)
    return name


@dataclass(frozen=True)
class LoadDrawWorker:
    """Makes a worker on a device, in whatever process. Arguments as in `VerifierDataSettings`."""

    model: str
    lora: str | None
    arguments: dict[str, Any]
    temperature: float | None
    steps: tuple[int, ...] | str
    batch_size: int
    dtype: Precision

    def __call__(self, device: str) -> DrawWorker:
        pipeline: Any = load_pipeline(self.model, device, weights_dtype(self.dtype), self.lora)
        pipeline.set_progress_bar_config(disable=True)
        if not isinstance(pipeline, ShowoPipeline):
            return DrawWorker(FinishedCandidates(TextToImage(pipeline, self.arguments)), self.batch_size)
        further = {} if self.temperature is None else {"temperature": self.temperature}
        sampling = pipeline.sampling_settings(
            self.arguments["num_inference_steps"], self.arguments["guidance_scale"], **further
        )
        grid = pipeline.grid(self.arguments["height"], self.arguments["width"])
        length = self.arguments["max_sequence_length"]
        return DrawWorker(SteppedCandidates(pipeline, sampling, self.steps, grid, length), self.batch_size)
