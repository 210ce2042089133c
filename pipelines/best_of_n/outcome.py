"""N images, and the one that the verifier takes for the best: an outcome reward model (ORM)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from generators.text_to_image import TextToImage
from pipelines.best_of_n.kept_candidates import KeptCandidates
from pipelines.best_of_n.verifier import Picture, Verifier


@dataclass(frozen=True)
class Choice:
    """The candidates of one image, and which is the best.

    Args:
        best: its number.
        pictures: last image of each candidate, by its number; given-up ones have the image at which they were.
        judgements: what the verifier said of each, by its number.
        steps: of the sampler, over all candidates.
        steps_of_all: what they would have been with every candidate drawn to its end.
    """

    best: int
    pictures: Mapping[int, Picture]
    judgements: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    steps: int = 0
    steps_of_all: int = 0


class OutcomeSearch:
    """Draws all candidates to the end.

    Args:
        model: any, with the run's settings.
        verifier: None takes the first candidate, unasked.
        num_steps: of the sampler, for the account.
        batch_size: candidates in one pass.
        numbered: tell the pipeline which candidate of the prompt is the first of a pass (`temperature_carry`).
    """

    def __init__(
        self,
        model: TextToImage | KeptCandidates,
        verifier: Verifier | None,
        num_steps: int,
        batch_size: int,
        numbered: bool = False,
    ) -> None:
        self._model = model
        self._verifier = verifier
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._numbered = numbered

    def choose(self, metadata: Mapping[str, Any], seeds: Sequence[Sequence[int]]) -> list[Choice]:
        """Draw a candidate for each seed of each image, in passes that images share. Of equals, the first is best."""
        all_seeds = [seed for own in seeds for seed in own]
        images = []
        for start in range(0, len(all_seeds), self._batch_size):
            part = all_seeds[start : start + self._batch_size]
            further = {"first": start} if self._numbered else {}
            images += self._model.generate([metadata["prompt"]] * len(part), part, **further)
        drawn = iter(images)
        return [self._choice(metadata, [np.asarray(next(drawn)) for _ in own]) for own in seeds]

    def _choice(self, metadata: Mapping[str, Any], pictures: Sequence[Picture]) -> Choice:
        steps = len(pictures) * self._num_steps
        scores = [] if self._verifier is None else self._verifier.outcomes(pictures, metadata)
        judgements = {number: {"outcome": score} for number, score in enumerate(scores)}
        best = int(np.argmax(scores)) if scores else 0
        return Choice(best, dict(enumerate(pictures)), judgements, steps, steps)
