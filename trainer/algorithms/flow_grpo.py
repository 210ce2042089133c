"""Flow-GRPO: clipped policy gradient over the steps of the stochastic sampler, with a KL to the adapter-free model.

For sample i and step j (arXiv 2505.05470; released code of July 2025):

    ratio = exp(log_prob - log_prob when sampled)
    L     = max(-A ratio, -A clamp(ratio, 1 - c, 1 + c)) + beta * mean((mean - mean_ref)^2) / (2 d^2)

with A clamped to +-`advantage_clip` and d the step's s (today's code), or its standard deviation s sqrt(-dt) (the code
of May 2025). Log-probabilities are means over the latent's dimensions, which is why the clip range c is so small.
With `window`, noise and training are confined to a few steps (`trainer.algorithms.fast`).
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from assay.config import ConfigModel
from generators.embeddings import PromptEmbeddings
from trainer.algorithms.algorithm import AdaptedModel, Algorithm, TrainingBatch
from trainer.algorithms.fast import WindowConfig, window_plan
from trainer.metric_sums import MetricSums
from trainer.prompts import RolloutSample, stable_seed
from trainer.sampling import STOCHASTIC_STEPS, StepPlan, Trajectory, guided_velocity
from trainer.stochastic_step import SdeStep


class FlowGrpoConfig(ConfigModel):
    """Settings of the algorithm, with the reference's names where it has them."""

    name: Literal["flow_grpo"]
    optimizer_steps_per_epoch: int = Field(2, ge=1, description="the first is on-policy, the others slightly off")
    timestep_strategy: Literal["first", "random"] = "first"
    timestep_fraction: float = Field(0.99, gt=0, lt=1, description="share of the steps trained; the last never is")
    window: WindowConfig | None = Field(None, description="noise and training in few steps only (Flow-GRPO-Fast)")
    clip_range: float = Field(1e-4, gt=0)
    advantage_clip: float = Field(5.0, gt=0)
    kl_weight: float = Field(0.04, ge=0, description="beta")
    kl_denominator: Literal["std_dev", "transition_std"] = "std_dev"
    detach_unconditional: bool = Field(False, description="no gradient through the unconditional branch (July 2025)")

    def num_trained_steps(self, num_steps: int) -> int:
        """T, the steps of each sample that are trained."""
        return self.window.size if self.window else max(1, int(num_steps * self.timestep_fraction))


def trained_steps(config: FlowGrpoConfig, num_steps: int, seeds: Sequence[int]) -> Tensor:
    """(batch, T) indices of the steps to train: the first T = int(n f), or T at random for each sample.

    The last step is never drawn: its Gaussian is too sharp to learn from. (The numerosity fork draws from all n.)
    """
    number = config.num_trained_steps(num_steps)
    if config.timestep_strategy == "first":
        return torch.arange(number).repeat(len(seeds), 1)
    draws = [torch.randperm(num_steps - 1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack([draw[:number] for draw in draws])


def clipped_policy_loss(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """max(-A r, -A clamp(r, 1 - c, 1 + c)), element by element."""
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))


class FlowGrpo(Algorithm):
    """The policy gradient of sampled micro-batches, one step at a time.

    Args:
        config: the algorithm's settings.
        model: predicts the velocity of the policy, and inside `without_adapter()` that of the reference.
        negative: embedding of the empty prompt, or None.
        num_steps: steps of the sampler.
        guidance_scale: as used in sampling; the ratio is that of the guided policy.
        noise_level: eta of the stochastic steps.
        sde_type: which kind of stochastic step.
    """

    def __init__(
        self,
        config: FlowGrpoConfig,
        model: AdaptedModel,
        negative: PromptEmbeddings | None,
        *,
        num_steps: int,
        guidance_scale: float,
        noise_level: float,
        sde_type: str = "flow",
    ) -> None:
        super().__init__()
        self._config, self._model, self._negative = config, model, negative
        self._guidance_scale, self._noise_level, self._num_steps = guidance_scale, noise_level, num_steps
        self._step = STOCHASTIC_STEPS[sde_type]

    @property
    def passes(self) -> int:
        return self._config.num_trained_steps(self._num_steps)

    def plan(self, samples: Sequence[RolloutSample], num_steps: int) -> StepPlan:
        """Noise in every step, or in the window of the sample's group alone."""
        if self._config.window is not None:
            return window_plan(
                self._config.window, [sample.group_seed for sample in samples], num_steps, self._noise_level
            )
        steps = trained_steps(self._config, num_steps, [stable_seed("trained steps", s.seed) for s in samples])
        return StepPlan(torch.full((len(samples), num_steps), self._noise_level), steps)

    def losses(self, batch: TrainingBatch, metrics: MetricSums) -> Iterator[Tensor]:
        """One loss for each trained step. The batch is as sampled: the ratio is 1 while the policy is unchanged."""
        trajectory = batch.trajectory
        assert trajectory is not None
        kept = (batch.weights != 0).float()
        clamped = batch.weights.clamp(-self._config.advantage_clip, self._config.advantage_clip)
        for column, indices in enumerate(trajectory.plan.trained.to(batch.weights.device).T):
            mean_ref = self._reference_mean(batch, trajectory, column, indices)
            step = self._score(batch, trajectory, column, indices)
            log_ratio, scale = self._log_ratio(step, trajectory, column, indices)
            policy_loss = clipped_policy_loss(log_ratio.exp(), clamped, self._config.clip_range) * scale
            kl = self._kl(step, mean_ref)
            loss = policy_loss + self._config.kl_weight * kl
            _measure(metrics, kept, indices, loss, policy_loss, kl, log_ratio, self._config.clip_range)
            yield (loss * kept).sum()

    def _log_ratio(
        self, step: SdeStep, trajectory: Trajectory, column: int, indices: Tensor
    ) -> tuple[Tensor, Tensor | float]:
        """(batch,) logarithm of the ratio, and what the policy loss is multiplied by."""
        return step.log_prob - trajectory.log_probs[:, column], 1.0

    def _score(self, batch: TrainingBatch, trajectory: Trajectory, column: int, indices: Tensor) -> SdeStep:
        """Score the stored steps under the present policy: column `column`, of each row the step `indices[row]`."""
        latents, sigma = trajectory.states[:, column], trajectory.sigmas[indices]
        velocity = guided_velocity(
            self._model,
            latents,
            sigma,
            batch.prompts,
            self._negative,
            self._guidance_scale,
            detach_unconditional=self._config.detach_unconditional,
        )
        return self._step(
            latents,
            velocity,
            sigma=sigma,
            sigma_next=trajectory.sigmas[indices + 1],
            sigma_max=trajectory.sigmas[1],
            noise_level=self._noise_level,
            next_sample=trajectory.next_states[:, column],
        )

    @torch.no_grad()
    def _reference_mean(
        self, batch: TrainingBatch, trajectory: Trajectory, column: int, indices: Tensor
    ) -> Tensor | None:
        """Mean of the step's Gaussian without the adapter; None where no KL is asked for."""
        if self._config.kl_weight == 0:
            return None
        with self._model.without_adapter():
            return self._score(batch, trajectory, column, indices).mean

    def _kl(self, step: SdeStep, mean_ref: Tensor | None) -> Tensor:
        """(batch,) KL of the step's Gaussian to the reference's, up to the choice of denominator."""
        if mean_ref is None:
            return torch.zeros_like(step.log_prob)
        deviation = getattr(step, self._config.kl_denominator)
        return ((step.mean - mean_ref) ** 2).flatten(1).mean(1) / (2 * deviation**2)


def _measure(
    metrics: MetricSums,
    kept: Tensor,
    steps: Tensor,
    loss: Tensor,
    policy_loss: Tensor,
    kl: Tensor,
    log_ratio: Tensor,
    clip: float,
) -> None:
    ratio = log_ratio.detach().exp()
    above, below = (ratio > 1 + clip).float(), (ratio < 1 - clip).float()
    metrics.add(
        kept,
        loss=loss,
        policy_loss=policy_loss,
        kl=kl,
        approx_kl=0.5 * log_ratio**2,
        clip_fraction=above + below,
        clip_fraction_above=above,
        clip_fraction_below=below,
        ratio_mean=ratio,
    )
    metrics.add_by_step(kept, steps, ratio=ratio, clip_fraction=above + below)
    metrics.highest("first_ratio_deviation", kept, (ratio - 1).abs())
