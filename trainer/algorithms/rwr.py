"""Reward-weighted regression: flow matching on the policy's own images, each as much as its advantage deserves.

Peters and Schaal 2007; for diffusion models arXiv 2302.12192. Weights of a sample with advantage A:

    exponential   min(exp(A / temperature), largest_weight)
    best          1 for the best of its group (all of equals), 0 for the others: supervised fine-tuning on the best
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trainer.algorithms.algorithm import AdaptedModel, TrainingBatch
from trainer.algorithms.forward_process import ForwardProcessConfig
from trainer.algorithms.sft import FlowMatching
from trainer.rollout import Rollout


class RwrConfig(ForwardProcessConfig):
    """Settings of reward-weighted regression."""

    name: Literal["rwr"]
    weighting: Literal["exponential", "best"] = "exponential"
    temperature: float = Field(1.0, gt=0)
    largest_weight: float = Field(20.0, gt=0)


class Rwr(FlowMatching):
    """Flow matching with weights from advantages; groups without a difference in reward have none."""

    def __init__(self, config: RwrConfig, model: AdaptedModel, guidance_scale: float) -> None:
        super().__init__(config, model, guidance_scale)
        self._config = config

    def batches(self, rollouts: Sequence[Rollout], advantages: NDArray[np.float64]) -> list[TrainingBatch]:
        groups = np.array([sample.group for rollout in rollouts for sample in rollout.samples])
        return super().batches(rollouts, regression_weights(self._config, advantages, groups))


def regression_weights(
    config: RwrConfig, advantages: NDArray[np.float64], groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(samples,) weights; 0 where the advantages of a whole group are 0."""
    informative = np.isin(groups, np.unique(groups[advantages != 0]))
    if config.weighting == "exponential":
        weights = np.minimum(np.exp(advantages / config.temperature), config.largest_weight)
    else:
        best = {group: advantages[groups == group].max() for group in np.unique(groups)}
        weights = np.array([float(a == best[group]) for a, group in zip(advantages, groups, strict=True)])
    return np.where(informative, weights, 0.0)
