"""Flow-GRPO: clipped policy gradient over the steps of the stochastic sampler, with a KL to the adapter-free model.

For sample i and step j (arXiv 2505.05470; released code of July 2025):

    ratio = exp(log_prob - log_prob when sampled)
    L     = max(-A ratio, -A clamp(ratio, 1 - c, 1 + c)) + beta * mean((mean - mean_ref)^2) / (2 d^2)

with A clamped to +-`advantage_clip` and d the step's s (today's code), or its standard deviation s sqrt(-dt) (the code
of May 2025). Log-probabilities are means over the latent's dimensions, which is why the clip range c is so small.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from assay.config import ConfigModel
from generators.embeddings import PromptEmbeddings
from trainer.sampling import SdeStep, Trajectory, VelocityModel, guided_velocity, sde_step


class FlowGrpoConfig(ConfigModel):
    """Settings of the algorithm, with the reference's names where it has them."""

    optimizer_steps_per_epoch: int = Field(2, ge=1, description="the first is on-policy, the others slightly off")
    timestep_strategy: Literal["first", "random"] = "first"
    timestep_fraction: float = Field(0.99, gt=0, lt=1, description="share of the steps trained; the last never is")
    clip_range: float = Field(1e-4, gt=0)
    advantage_clip: float = Field(5.0, gt=0)
    kl_weight: float = Field(0.04, ge=0, description="beta")
    kl_denominator: Literal["std_dev", "transition_std"] = "std_dev"
    global_std: bool = True
    detach_unconditional: bool = Field(False, description="no gradient through the unconditional branch (July 2025)")
    strict_reward: bool = Field(False, description="train on 1 where the total is 1, else 0")


class AdaptedModel(VelocityModel, Protocol):
    """A velocity model with an adapter that can be switched off for a while: then it is the reference policy."""

    def without_adapter(self) -> AbstractContextManager[None]: ...


@dataclass
class StepMetrics:
    """Sums over (sample, step) pairs; `number` is how many, and `ratio_deviation` the largest |ratio - 1|."""

    number: float = 0.0
    loss: float = 0.0
    policy_loss: float = 0.0
    kl: float = 0.0
    approx_kl: float = 0.0
    clip_fraction: float = 0.0
    ratio: float = 0.0
    ratio_deviation: float = 0.0


def trained_steps(config: FlowGrpoConfig, num_steps: int, seeds: Sequence[int]) -> Tensor:
    """(batch, T) indices of the steps to train: the first T = int(n f), or T at random for each sample.

    The last step is never drawn: its Gaussian is too sharp to learn from. (The numerosity fork draws from all n.)
    """
    number = max(1, int(num_steps * config.timestep_fraction))
    if config.timestep_strategy == "first":
        return torch.arange(number).expand(len(seeds), number)
    draws = [torch.randperm(num_steps - 1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack([draw[:number] for draw in draws])


def clipped_policy_loss(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """max(-A r, -A clamp(r, 1 - c, 1 + c)), element by element."""
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))


class FlowGrpoLoss:
    """The loss of one sampled micro-batch, one step at a time.

    Args:
        config: the algorithm's settings.
        model: predicts the velocity of the policy, and inside `without_adapter()` that of the reference.
        guidance_scale: as used in sampling; the ratio is that of the guided policy.
        noise_level: eta, as used in sampling.
    """

    def __init__(
        self,
        config: FlowGrpoConfig,
        model: AdaptedModel,
        *,
        guidance_scale: float,
        noise_level: float,
    ) -> None:
        self._config, self._model = config, model
        self._guidance_scale, self._noise_level = guidance_scale, noise_level

    def per_step(
        self,
        trajectory: Trajectory,
        prompts: PromptEmbeddings,
        negative: PromptEmbeddings | None,
        advantages: Tensor,
        steps: Tensor,
        metrics: StepMetrics,
    ) -> Iterator[Tensor]:
        """Yield, for each trained step, the sum of the samples' losses; the caller scales it and goes backward.

        Samples with zero advantage carry no signal and count neither in the loss nor in the metrics.

        Args:
            trajectory: as sampled, in the same micro-batch (the ratio is exactly 1 while the policy is unchanged).
            prompts: embeddings (batch).
            negative: embedding of the empty prompt, or None.
            advantages: (batch,) float32.
            steps: (batch, T) indices from `trained_steps`.
            metrics: sums are added here.
        """
        kept = (advantages != 0).float()
        clamped = advantages.clamp(-self._config.advantage_clip, self._config.advantage_clip)
        rows = torch.arange(len(advantages), device=advantages.device)
        for column in steps.to(advantages.device).T:
            mean_ref = self._reference_mean(trajectory, prompts, negative, rows, column)
            step = self._score(trajectory, prompts, negative, rows, column)
            log_ratio = step.log_prob - trajectory.log_probs[rows, column]
            ratio = log_ratio.exp()
            policy_loss = clipped_policy_loss(ratio, clamped, self._config.clip_range)
            kl = self._kl(step, mean_ref, trajectory.sigmas[column] - trajectory.sigmas[column + 1])
            loss = policy_loss + self._config.kl_weight * kl
            _add(metrics, kept, loss, policy_loss, kl, log_ratio, self._config.clip_range)
            yield (loss * kept).sum()

    def _score(
        self,
        trajectory: Trajectory,
        prompts: PromptEmbeddings,
        negative: PromptEmbeddings | None,
        rows: Tensor,
        column: Tensor,
    ) -> SdeStep:
        """Score each row's stored step `column[row]` under the present policy."""
        latents, sigma = trajectory.states[rows, column], trajectory.sigmas[column]
        velocity = guided_velocity(
            self._model,
            latents,
            sigma,
            prompts,
            negative,
            self._guidance_scale,
            detach_unconditional=self._config.detach_unconditional,
        )
        return sde_step(
            latents,
            velocity,
            sigma=sigma,
            sigma_next=trajectory.sigmas[column + 1],
            sigma_max=trajectory.sigmas[1],
            noise_level=self._noise_level,
            next_sample=trajectory.states[rows, column + 1],
        )

    @torch.no_grad()
    def _reference_mean(
        self,
        trajectory: Trajectory,
        prompts: PromptEmbeddings,
        negative: PromptEmbeddings | None,
        rows: Tensor,
        column: Tensor,
    ) -> Tensor | None:
        """Mean of the step's Gaussian without the adapter; None where no KL is asked for."""
        if self._config.kl_weight == 0:
            return None
        with self._model.without_adapter():
            return self._score(trajectory, prompts, negative, rows, column).mean

    def _kl(self, step: SdeStep, mean_ref: Tensor | None, noise_drop: Tensor) -> Tensor:
        """(batch,) KL of the step's Gaussian to the reference's, up to the choice of denominator."""
        if mean_ref is None:
            return torch.zeros_like(step.log_prob)
        variance = step.std_dev**2
        if self._config.kl_denominator == "transition_std":
            variance = variance * noise_drop
        return ((step.mean - mean_ref) ** 2).flatten(1).mean(1) / (2 * variance)


@torch.no_grad()
def _add(
    metrics: StepMetrics, kept: Tensor, loss: Tensor, policy_loss: Tensor, kl: Tensor, log_ratio: Tensor, clip: float
) -> None:
    ratio = log_ratio.exp()
    metrics.number += kept.sum().item()
    metrics.loss += (loss * kept).sum().item()
    metrics.policy_loss += (policy_loss * kept).sum().item()
    metrics.kl += (kl * kept).sum().item()
    metrics.approx_kl += (0.5 * log_ratio**2 * kept).sum().item()
    metrics.clip_fraction += (((ratio - 1).abs() > clip).float() * kept).sum().item()
    metrics.ratio += (ratio * kept).sum().item()
    metrics.ratio_deviation = max(metrics.ratio_deviation, ((ratio - 1).abs() * kept).max().item())
