"""What is asked of a verifier service: is the finished image right, is an unfinished one clear, can it become right?

A question without an answer is an error, never a low score: the unit is tried again, or fails.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.client import RewardClient
from assay.outcomes import Scored
from assay.tasks import OutcomeTask, PotentialTask, Task
from pipelines.best_of_n.settings import VerifierSettings
from pipelines.reward_service import score_of

Picture = NDArray[np.uint8]


class Verifier:
    """Asks the service, and counts the questions.

    Args:
        client: of the service.
        scorers: which of its scorers are asked.
    """

    def __init__(self, client: RewardClient, scorers: VerifierSettings) -> None:
        self._client = client
        self._scorers = scorers
        self._fingerprints: Mapping[str, str] = {}
        self.asked: Counter[str] = Counter()

    def begin(self, fingerprints: Mapping[str, str]) -> None:
        """Start to count anew, and from now on be answered by no other scorers than these."""
        self._fingerprints = fingerprints
        self.asked.clear()

    def close(self) -> None:
        self._client.close()

    def outcomes(self, pictures: Sequence[Picture], metadata: Mapping[str, Any]) -> list[float]:
        """Of each finished image, a number that is the higher the better: log-odds of yes where the scorer tells them,
        since probabilities near 1 all round to 1; else the scorer's value.

        Args:
            pictures: (height, width, 3) uint8 each.
            metadata: with `prompt`, and GenEval's task where there is one.
        """
        task = metadata if "include" in metadata else OutcomeTask()
        scored = self._ask("outcome", self._scorers.outcome_scorer, pictures, metadata, task)
        return [outcome.components.get("margin", outcome.value) for outcome in scored]

    def clarity(
        self, pictures: Sequence[Picture], metadata: Mapping[str, Any], step: int, num_steps: int
    ) -> list[float]:
        """Probability of each that it is clear enough to be judged, after `step` of `num_steps` steps."""
        task = PotentialTask(step, num_steps)
        scored = self._ask("clarity", self._scorers.clarity_scorer, pictures, metadata, task)
        return [outcome.value for outcome in scored]

    def potential(
        self, pictures: Sequence[Picture], metadata: Mapping[str, Any], step: int, num_steps: int
    ) -> list[float]:
        """Probability of each, given that it is clear, that it can become a good image."""
        task = PotentialTask(step, num_steps)
        scored = self._ask("potential", self._scorers.potential_scorer, pictures, metadata, task)
        return [outcome.value for outcome in scored]

    def _ask(
        self,
        question: str,
        scorer: str,
        pictures: Sequence[Picture],
        metadata: Mapping[str, Any],
        task: Task | Mapping[str, Any],
    ) -> list[Scored]:
        if not pictures:
            return []
        self.asked[question] += len(pictures)
        outcomes = self._client.score(
            list(pictures),
            scorer=scorer,
            prompts=[metadata["prompt"]] * len(pictures),
            tasks=[task] * len(pictures),
            expected_fingerprint=self._fingerprints[scorer],
            priority="batch",
        )
        return [score_of(outcome, scorer) for outcome in outcomes]
