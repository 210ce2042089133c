"""Where the batches of an epoch come from: rollouts that the services score, or a file of images."""

from collections.abc import Iterator
from typing import Any, Protocol

from trainer.algorithms.algorithm import TrainingBatch


class BatchSource(Protocol):
    """One epoch after another, each as this process's batches for one optimizer step after another."""

    def steps(self, epoch: int) -> Iterator[list[TrainingBatch]]:
        """Yield the batches behind each optimizer step; every process yields equally many lists of equally many."""

    def metrics(self) -> dict[str, Any]:
        """What there is to log of the epoch, once it is used up."""
