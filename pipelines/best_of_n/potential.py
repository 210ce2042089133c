"""N paths judged on the way, by a potential assessment reward model (PARM; arXiv 2501.13926, section 4).

All paths take their steps side by side. After each step the verifier is asked of every path that was not clear yet
whether its image is clear now; of one that is, once, whether it can become a good image. Paths that cannot are given
up there and then: the paper says so, the released code draws them to the end. Among the paths that remain, the verifier
chooses by their finished images. If none remains, the path with the most potential is drawn to its end; if none was
ever clear, the finished images decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from generators.showo.pipeline import ShowoPipeline
from generators.showo.sampler import MaskPredictSampling, Step
from generators.showo.sampling_settings import SamplingSettings
from pipelines.best_of_n.outcome import Choice
from pipelines.best_of_n.settings import ParmSettings
from pipelines.best_of_n.verifier import Picture, Verifier


@dataclass
class _Path:
    """A candidate on its way, the `rank`-th that is drawn for its prompt; `clear_at` counts steps from 1."""

    number: int
    rank: int
    seed: int
    steps: int = 0
    clear_at: int | None = None
    potential: float | None = None
    outcome: float | None = None
    picture: Picture | None = None

    def judgement(self) -> dict[str, Any]:
        found = {"steps": self.steps, "clear_at": self.clear_at, "potential": self.potential, "outcome": self.outcome}
        return {name: value for name, value in found.items() if value is not None}


class PotentialSearch:
    """Draws candidates with Show-o, whose unfinished images can be looked at.

    Args:
        pipeline: the generator.
        verifier: a PARM.
        sampling: how to draw.
        parm: how to judge.
        batch_size: paths side by side.
        grid: tokens in a column and in a row; None for a square.
        max_sequence_length: of a prompt; None for the model's own.
    """

    def __init__(
        self,
        pipeline: ShowoPipeline,
        verifier: Verifier,
        sampling: SamplingSettings,
        parm: ParmSettings,
        batch_size: int,
        grid: tuple[int, int] | None = None,
        max_sequence_length: int | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._verifier = verifier
        self._sampling = sampling
        self._parm = parm
        self._batch_size = batch_size
        self._grid = grid
        self._max_sequence_length = max_sequence_length

    def choose(self, metadata: Mapping[str, Any], seeds: Sequence[Sequence[int]]) -> list[Choice]:
        """Draw a path for each seed of each image, or as much of it as is worth it. Of equals, the first is best."""
        before = accumulate((len(own) for own in seeds), initial=0)
        return [self._choice(metadata, own, number) for own, number in zip(seeds, before, strict=False)]

    def _choice(self, metadata: Mapping[str, Any], seeds: Sequence[int], before: int) -> Choice:
        """`before` paths were drawn for the prompt already."""
        paths = [_Path(number, before + number, seed) for number, seed in enumerate(seeds)]
        for start in range(0, len(paths), self._batch_size):
            self._draw(metadata, paths[start : start + self._batch_size], prune=self._parm.prune)
        best = self._best(metadata, paths)
        steps = sum(path.steps for path in paths)
        pictures = {path.number: path.picture for path in paths if path.picture is not None}
        judgements = {path.number: path.judgement() for path in paths}
        return Choice(best.number, pictures, judgements, steps, len(paths) * self._sampling.num_steps)

    def _draw(self, metadata: Mapping[str, Any], paths: Sequence[_Path], *, prune: bool) -> None:
        """Draw paths side by side, to the end or to where they are given up."""
        run = self._start(metadata, paths)
        while not run.finished:
            step = run.step()
            left = [paths[number - paths[0].rank] for number in step.candidates]
            for path in left:
                path.steps += 1
            if step.index >= self._parm.first_step:
                self._judge(metadata, step, left)
            if prune and any(self._is_unpromising(path) for path in left):
                run.keep([row for row, path in enumerate(left) if not self._is_unpromising(path)])
        self._take_pictures(run, paths)

    def _start(self, metadata: Mapping[str, Any], paths: Sequence[_Path]) -> MaskPredictSampling:
        return self._pipeline.start(
            [metadata["prompt"]] * len(paths),
            [torch.Generator("cpu").manual_seed(path.seed) for path in paths],
            self._sampling,
            first=paths[0].rank,
            max_sequence_length=self._max_sequence_length,
        )

    def _judge(self, metadata: Mapping[str, Any], step: Step, paths: Sequence[_Path]) -> None:
        """Ask about the paths that were not clear before this step."""
        unclear = [(row, path) for row, path in enumerate(paths) if path.clear_at is None]
        if not unclear:
            return
        taken, of = step.index + 1, self._sampling.num_steps
        pictures = self._pipeline.decode(step.codes[[row for row, _ in unclear]], self._grid)
        clarities = self._verifier.clarity(pictures, metadata, taken, of)
        clear = [
            (path, picture)
            for (_, path), picture, clarity in zip(unclear, pictures, clarities, strict=True)
            if clarity >= self._parm.clarity
        ]
        potentials = self._verifier.potential([picture for _, picture in clear], metadata, taken, of)
        for (path, picture), potential in zip(clear, potentials, strict=True):
            path.clear_at, path.potential, path.picture = taken, potential, picture

    def _is_unpromising(self, path: _Path) -> bool:
        return path.potential is not None and path.potential < self._parm.potential

    def _take_pictures(self, run: MaskPredictSampling, paths: Sequence[_Path]) -> None:
        if run.candidates:
            pictures = self._pipeline.decode(run.codes, self._grid)
            for number, picture in zip(run.candidates, pictures, strict=True):
                paths[number - paths[0].rank].picture = picture

    def _best(self, metadata: Mapping[str, Any], paths: Sequence[_Path]) -> _Path:
        promising = [path for path in paths if path.potential is not None and not self._is_unpromising(path)]
        given_up = [path for path in paths if self._is_unpromising(path)]
        if not promising and given_up:
            best = max(given_up, key=lambda path: path.potential or 0.0)
            if best.steps < self._sampling.num_steps:
                self._finish(metadata, best)
            return best
        finished = promising or list(paths)
        pictures = [path.picture for path in finished if path.picture is not None]
        outcomes = self._verifier.outcomes(pictures, metadata)
        for path, outcome in zip(finished, outcomes, strict=True):
            path.outcome = outcome
        return finished[outcomes.index(max(outcomes))]

    def _finish(self, metadata: Mapping[str, Any], path: _Path) -> None:
        """Draw a path that was given up again, from its start to its end."""
        run = self._start(metadata, [path])
        run.finish()
        path.steps += self._sampling.num_steps
        self._take_pictures(run, [path])
