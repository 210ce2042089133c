"""A verifier's scores of pairs from a file, which decide how much each counts (`trainer.algorithms.guidance`).

Each row is scored once for as long as the process lives: the services' fingerprints are pinned, so that they would say
the same again.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from assay.rewards import RewardSet
from assay.tasks import OutcomeTask
from trainer.algorithms.guidance import GuidanceConfig, pair_weights
from trainer.data_rows import DataRow, read_picture
from trainer.metric_sums import MetricSums
from trainer.reward_calls import RewardCalls


class PairJudge:
    """Asks the reward services.

    Args:
        config: from scores to weights.
        rewards: the services.
        size: width and height in pixels that pictures are brought to.
    """

    def __init__(self, config: GuidanceConfig, rewards: RewardSet, size: tuple[int, int]) -> None:
        self._config, self._rewards, self._size = config, rewards, size
        self._known: dict[int, tuple[float, float]] = {}
        self._sums, self._calls = MetricSums(), RewardCalls()

    def submit(self, rows: Mapping[int, DataRow]) -> Callable[[], Tensor]:
        """Start scoring rows, by their number in the file; what is returned waits and gives their weights (rows,).

        Raises (when called):
            ScoringFailedError: a score failed under `on_failure: raise`. Under `drop_group` its pair is left out.
        """
        new = {index: row for index, row in rows.items() if index not in self._known}
        asked = [(row, column) for row in new.values() for column in (0, 1)]
        future = None
        if asked:
            future = self._rewards.submit(
                [read_picture(row.images[column], self._size) for row, column in asked],
                [row.prompt for row, _ in asked],
                [row.task or OutcomeTask() for row, _ in asked],
            )

        def weights() -> Tensor:
            if future is not None:
                scores = future.result()
                self._calls.add(scores)
                totals = scores.totals.reshape(-1, 2).tolist()
                found = {index: (chosen, rejected) for index, (chosen, rejected) in zip(new, totals, strict=True)}
                # A score that failed may come the next time.
                self._known |= {index: pair for index, pair in found.items() if all(map(isfinite, pair))}
            else:
                found = {}
            return self._weights([(self._known | found)[index] for index in rows])

        return weights

    def metrics(self, accelerator: Accelerator) -> dict[str, Any]:
        """Since the last call, over all processes: the pairs' mean lead, the share that counts, and the services."""
        sums, self._sums = self._sums, MetricSums()
        return {**sums.gather(accelerator).means(), **self._calls.metrics(accelerator)}

    def _weights(self, scores: list[tuple[float, float]]) -> Tensor:
        chosen, rejected = torch.tensor(scores, dtype=torch.float64).T
        weights = pair_weights(self._config, chosen, rejected)
        scored = torch.tensor([isfinite(lead) for lead in (chosen - rejected).tolist()])
        self._sums.add(scored, verifier_lead=chosen - rejected)
        self._sums.add(torch.ones(len(weights)), pairs_kept=(weights > 0).float())
        return weights
