"""What a training algorithm decides. Sampling, scoring, gradients and checkpoints are the loop's, the same for all.

An algorithm knows nothing of models or rewards: it plans the noise of rollouts, picks what is trained on from the
advantages, and turns a micro-batch into losses.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.embeddings import PromptEmbeddings
from trainer.metric_sums import MetricSums
from trainer.policy_copy import PolicyCopy
from trainer.prompts import RolloutSample
from trainer.rollout import Rollout
from trainer.sampling import StepPlan, Trajectory, VelocityModel


class AdaptedModel(VelocityModel, Protocol):
    """A velocity model with an adapter that can be switched off for a while: then it is the reference policy."""

    def without_adapter(self) -> AbstractContextManager[None]: ...

    def shifted(self, u: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class TrainingBatch:
    """Samples that go through one forward and backward pass together.

    Args:
        seeds: (batch,) identity of each sample, for draws that must not depend on its batch.
        prompts: embeddings (batch).
        weights: (batch,) float32 what the algorithm makes of the reward; 0 leaves the sample out.
        clean: (batch, ...) clean latents; of a preference pair, the better one's.
        rejected: (batch, ...) the worse one's.
        trajectory: how the samples were drawn.
    """

    seeds: Sequence[int]
    prompts: PromptEmbeddings
    weights: Tensor
    clean: Tensor
    rejected: Tensor | None = None
    trajectory: Trajectory | None = None


class Algorithm(ABC):
    """One algorithm, set up for a run.

    Args of the classes derived from it: its own settings, the model, and of the sampler what it needs.
    """

    #: Further values of the trained parameters that a checkpoint must hold, by name.
    copies: dict[str, PolicyCopy]

    def __init__(self) -> None:
        self.copies = {}

    @property
    @abstractmethod
    def passes(self) -> int:
        """How many losses `losses` yields for a batch."""

    @abstractmethod
    def losses(self, batch: TrainingBatch, metrics: MetricSums) -> Iterator[Tensor]:
        """Yield one loss after another, each the sum over the batch's samples; the caller goes backward between them.

        Samples of weight 0 count neither in the loss nor in the metrics.
        """

    def plan(self, samples: Sequence[RolloutSample], num_steps: int) -> StepPlan:
        """How rollouts are sampled: without noise, and nothing kept but the images."""
        return StepPlan.deterministic(len(samples), num_steps)

    def behaviour(self) -> AbstractContextManager[None]:
        """Inside, the policy that samples the rollouts is in place."""
        return nullcontext()

    def batches(self, rollouts: Sequence[Rollout], advantages: NDArray[np.float64]) -> list[TrainingBatch]:
        """What is trained on, of the rollouts behind one optimizer step and their advantages (samples,).

        Micro-batches stay as they were sampled.
        """
        batches, offset = [], 0
        for rollout in rollouts:
            own, offset = advantages[offset : offset + len(rollout.samples)], offset + len(rollout.samples)
            batches.append(
                TrainingBatch(
                    seeds=[sample.seed for sample in rollout.samples],
                    prompts=rollout.prompts,
                    weights=torch.as_tensor(own, dtype=torch.float32, device=rollout.trajectory.clean.device),
                    clean=rollout.trajectory.clean,
                    trajectory=rollout.trajectory,
                )
            )
        return batches

    def after_epoch(self, epoch: int) -> None:  # noqa: B027 (most have nothing to do)
        """Called when `epoch` epochs are trained."""
