"""Pairs of images, of which one is preferred: where they come from, whatever the model and the loss.

From a file, or from rollouts: the best and the worst of a group, as the services judge them. A group whose rewards are
all equal gives none.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from assay.config import ConfigModel
from generators.embeddings import PromptEmbeddings
from trainer.algorithms.algorithm import Algorithm, TrainingBatch
from trainer.policy_copy import PolicyCopy
from trainer.rollout import Rollout


class PairsConfig(ConfigModel):
    """Fields of all algorithms that learn from pairs."""

    data: Path | None = Field(None, description="JSONL of pairs (prompt, chosen, rejected); None: pairs of rollouts")
    pairs_per_epoch: int | None = Field(None, ge=1, description="of `data`, over all processes")
    sample_with: Literal["policy", "reference"] = Field("policy", description="who draws the rollouts")
    reference_update_epochs: int | None = Field(None, ge=1, description="None: the reference stays as it started")
    micro_batch_pairs: int = Field(8, ge=1, description="pairs trained on at once, per process")


class PairsAlgorithm(Algorithm):
    """Learns from pairs, against a reference that may follow the policy.

    Args:
        config: the algorithm's settings.
        parameters: the trained parameters, for the reference's copy: with a LoRA that is the model without it, at
            first, and else the whole model as it was.
    """

    def __init__(self, config: PairsConfig, parameters: list[torch.nn.Parameter]) -> None:
        super().__init__()
        self._pairs = config
        self._reference = PolicyCopy(parameters)
        self.copies["reference"] = self._reference

    def behaviour(self) -> AbstractContextManager[None]:
        return self._reference.in_place() if self._pairs.sample_with == "reference" else nullcontext()

    def after_epoch(self, epoch: int) -> None:
        every = self._pairs.reference_update_epochs
        if every is not None and epoch % every == 0:
            self._reference.follow(0.0)


def best_and_worst(rollouts: Sequence[Rollout], advantages: NDArray[np.float64]) -> list[TrainingBatch]:
    """One pair (a batch of 1) for each group, in order of the groups; the first of equals is taken.

    Its weight is 1, or 0 where all advantages of the group are equal, and so for a group without rewards.
    """
    places = [(rollout, row) for rollout in rollouts for row in range(len(rollout.samples))]
    groups: dict[int, list[int]] = {}
    for index, (rollout, row) in enumerate(places):
        groups.setdefault(rollout.samples[row].group, []).append(index)
    pairs = []
    for members in groups.values():
        best, worst = (members[pick(advantages[members])] for pick in (np.argmax, np.argmin))
        (rollout, row), (other, other_row) = places[best], places[worst]
        weight = float(advantages[best] > advantages[worst])
        pairs.append(
            TrainingBatch(
                seeds=[rollout.samples[row].seed],
                prompts=rollout.prompts.row(row),
                weights=torch.tensor([weight], device=rollout.trajectory.clean.device),
                clean=rollout.trajectory.clean[row : row + 1],
                rejected=other.trajectory.clean[other_row : other_row + 1],
            )
        )
    return pairs


def micro_batches(pairs: Sequence[TrainingBatch], size: int) -> list[TrainingBatch]:
    """Pairs, put together by `size`; the last batch may be smaller."""
    return [_joined(pairs[start : start + size]) for start in range(0, len(pairs), size)]


def _joined(pairs: Sequence[TrainingBatch]) -> TrainingBatch:
    return TrainingBatch(
        seeds=[seed for pair in pairs for seed in pair.seeds],
        prompts=PromptEmbeddings.concatenate([pair.prompts for pair in pairs]),
        weights=torch.cat([pair.weights for pair in pairs]),
        clean=torch.cat([pair.clean for pair in pairs]),
        rejected=torch.cat([pair.rejected for pair in pairs if pair.rejected is not None]),
    )
