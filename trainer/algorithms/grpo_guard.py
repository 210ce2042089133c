"""GRPO-Guard: Flow-GRPO with ratios that are centred and of equal spread over the sampler's steps.

The log-ratio of a Gaussian step carries a bias -|mean - mean_old|^2 / (2 std^2), always downwards and largest where
there is least noise; so clipping rarely catches what gains. arXiv 2510.22319, and the released code:

    ratio = exp((log_prob - log_prob_old + mean((mean - mean_old)^2) / (2 std^2)) * std)
    L     = clipped policy loss / (-dt)

The bias is each sample's own. (The released code's mean runs over the whole micro-batch.)
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor

from trainer.algorithms.flow_grpo import FlowGrpo, FlowGrpoConfig
from trainer.prompts import RolloutSample
from trainer.sampling import StepPlan, Trajectory
from trainer.stochastic_step import SdeStep


class GrpoGuardConfig(FlowGrpoConfig):
    """Settings as for Flow-GRPO; clip ranges that suit it are some fifty times smaller."""

    name: Literal["grpo_guard"]  # type: ignore[assignment]
    clip_range: float = Field(2e-6, gt=0)
    kl_weight: float = Field(0.0, ge=0)


class GrpoGuard(FlowGrpo):
    """Flow-GRPO with the regulated ratio; for `sde_type: flow` alone, of whose Gaussian it is derived."""

    def plan(self, samples: Sequence[RolloutSample], num_steps: int) -> StepPlan:
        return replace(super().plan(samples, num_steps), keeps_means=True)

    def _log_ratio(
        self, step: SdeStep, trajectory: Trajectory, column: int, indices: Tensor
    ) -> tuple[Tensor, Tensor | float]:
        moved = ((step.mean - trajectory.means[:, column]) ** 2).flatten(1).mean(1)
        bias = moved / (2 * step.transition_std**2)
        log_ratio = (step.log_prob - trajectory.log_probs[:, column] + bias) * step.transition_std
        return log_ratio, 1 / (trajectory.sigmas[indices] - trajectory.sigmas[indices + 1])
