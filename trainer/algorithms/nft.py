"""DiffusionNFT: reinforcement on the forward process; no stochastic sampler, no likelihoods, no guidance.

arXiv 2509.16117. With the sampling policy's velocity v_old, the learner's v, r the advantage scaled to [0, 1] and
mixing strength b, two implicit policies are fitted to each sample, the good one as far as r says, the bad one for the
rest:

    v+ = (1 - b) v_old + b v            v- = (1 + b) v_old - b v            x0+- = x_sigma - sigma v+-
    r  = clip(A / c / 2 + 1/2, 0, 1)    with c the advantage clip
    L  = (c / b) (r |x0+ - x0|^2 / w+ + (1 - r) |x0- - x0|^2 / w-)  +  reference_weight |v - v_ref|^2

Squares are means over the dimensions; w is the sample's mean |x0+- - x0|, with no gradient and not below 1e-5. After
each epoch the sampling policy follows the learner: old <- d old + (1 - d) learner.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trainer.algorithms.algorithm import AdaptedModel, Algorithm, TrainingBatch
from trainer.algorithms.forward_process import (
    ForwardProcess,
    ForwardProcessConfig,
    Noised,
    noised,
    per_sample,
    squared_error,
)
from trainer.metric_sums import MetricSums
from trainer.policy_copy import PolicyCopy

SMALLEST_WEIGHT = 1e-5


class NftConfig(ForwardProcessConfig):
    """Settings of DiffusionNFT."""

    name: Literal["nft"]
    noise_density: Literal["logit_normal", "uniform"] = "uniform"
    mixing: float = Field(1.0, gt=0, description="b; the authors use 1 or 0.1")
    advantage_clip: float = Field(5.0, gt=0, description="c")
    reference_weight: float = Field(1e-4, ge=0, description="of the distance to the adapter-free model")
    old_decay_rate: float = Field(0.001, ge=0, description="d = rate * (epoch - start), in [0, limit]")
    old_decay_start: int = Field(0, ge=0, description="until this epoch the sampling policy is the newest")
    old_decay_limit: float = Field(0.5, ge=0, lt=1)


class Nft(Algorithm):
    """DiffusionNFT.

    Args:
        config: the algorithm's settings.
        model: the policy, and inside `without_adapter()` the reference.
        parameters: the trained parameters, for the sampling policy's copy.
        guidance_scale: for models that embed it.
    """

    def __init__(
        self, config: NftConfig, model: AdaptedModel, parameters: list[torch.nn.Parameter], guidance_scale: float
    ) -> None:
        super().__init__()
        self._config, self._model = config, model
        self._process = ForwardProcess(config, model, guidance_scale)
        self._old = PolicyCopy(parameters)
        self.copies["old"] = self._old

    @property
    def passes(self) -> int:
        return self._config.noise_draws

    def behaviour(self) -> AbstractContextManager[None]:
        return self._old.in_place()

    def losses(self, batch: TrainingBatch, metrics: MetricSums) -> Iterator[Tensor]:
        kept = (batch.weights != 0).float()
        good = (batch.weights / self._config.advantage_clip / 2 + 0.5).clamp(0, 1)
        for draw in range(self._config.noise_draws):
            mixed = noised(batch.clean, *self._process.draw(batch, draw))
            old, reference = self._fixed_velocities(mixed, batch)
            velocity = self._process.velocity(mixed, batch.prompts)
            policy_loss = self._policy_loss(velocity, old, mixed, batch.clean, good)
            distance = squared_error(velocity, reference) if reference is not None else torch.zeros_like(policy_loss)
            loss = policy_loss + self._config.reference_weight * distance
            metrics.add(
                kept,
                loss=loss,
                policy_loss=policy_loss,
                kl=distance,
                moved=squared_error(velocity, old),
                flow_matching_error=squared_error(velocity, mixed.velocity),
            )
            yield (loss * kept).sum()

    def after_epoch(self, epoch: int) -> None:
        config = self._config
        decay = config.old_decay_rate * max(epoch - config.old_decay_start, 0)
        self._old.follow(min(decay, config.old_decay_limit))

    def _policy_loss(self, velocity: Tensor, old: Tensor, mixed: Noised, clean: Tensor, good: Tensor) -> Tensor:
        b, sigma = self._config.mixing, per_sample(mixed.sigma, clean)
        towards = mixed.latents - sigma * ((1 - b) * old + b * velocity)
        away = mixed.latents - sigma * ((1 + b) * old - b * velocity)
        loss = good * _weighted_error(towards, clean) + (1 - good) * _weighted_error(away, clean)
        return self._config.advantage_clip / b * loss

    @torch.no_grad()
    def _fixed_velocities(self, mixed: Noised, batch: TrainingBatch) -> tuple[Tensor, Tensor | None]:
        """The sampling policy's velocity, and the reference's where it is asked for."""
        with self._old.in_place():
            old = self._process.velocity(mixed, batch.prompts)
        if self._config.reference_weight == 0:
            return old, None
        with self._model.without_adapter():
            return old, self._process.velocity(mixed, batch.prompts)


def _weighted_error(predicted: Tensor, clean: Tensor) -> Tensor:
    """(batch,) mean squared error over the sample's own mean absolute error."""
    size = (predicted.detach().double() - clean.double()).abs().flatten(1).mean(1).clamp(min=SMALLEST_WEIGHT)
    return squared_error(predicted, clean) / size.float()
