"""What algorithms share that learn from clean images alone: noise levels, noised latents, predicted velocities.

They need no path of the sampler, so rollouts may come from any sampler, or from a folder of images. Each sample gets
`noise_draws` pairs of a noise level and noise; they depend on the sample's seed and the draw alone.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from assay.config import ConfigModel
from generators.embeddings import PromptEmbeddings
from trainer.algorithms.algorithm import AdaptedModel, TrainingBatch
from trainer.prompts import stable_seed
from trainer.sampling import guided_velocity


class ForwardProcessConfig(ConfigModel):
    """Fields of all algorithms of this kind."""

    optimizer_steps_per_epoch: int = Field(1, ge=1)
    noise_draws: int = Field(4, ge=1, description="(noise level, noise) pairs for each sample and epoch")
    noise_density: Literal["logit_normal", "uniform"] = Field(
        "logit_normal", description="of the noise level, before the model's own resolution-dependent shift"
    )

    @property
    def draws(self) -> int:
        return self.noise_draws


@dataclass(frozen=True)
class Noised:
    """Latents part of the way to noise.

    Args:
        latents: (batch, ...) (1 - sigma) clean + sigma noise.
        sigma: (batch,) noise levels.
        velocity: (batch, ...) the target: noise - clean.
    """

    latents: Tensor
    sigma: Tensor
    velocity: Tensor


class ForwardProcess:
    """Draws noise, and predicts velocities, with the settings of a run.

    Args:
        config: which noise levels.
        model: predicts velocities.
        guidance_scale: handed to models that embed it; there is no second branch in training.
    """

    def __init__(self, config: ForwardProcessConfig, model: AdaptedModel, guidance_scale: float) -> None:
        self._config, self._model, self._guidance_scale = config, model, guidance_scale

    def draw(self, batch: TrainingBatch, draw: int) -> tuple[Tensor, Tensor]:
        """(batch,) noise levels and (batch, ...) noise of draw number `draw`; the same whenever they are asked for."""
        generators = [torch.Generator().manual_seed(stable_seed("noise", seed, draw)) for seed in batch.seeds]
        levels = torch.stack([self._level(own, draw) for own in generators])
        noise = torch.stack([torch.randn(batch.clean.shape[1:], generator=own) for own in generators])
        device = batch.clean.device
        return self._model.shifted(levels).to(device), noise.to(device)

    def velocity(self, noised: Noised, prompts: PromptEmbeddings) -> Tensor:
        """The present policy's."""
        return guided_velocity(self._model, noised.latents, noised.sigma, prompts, None, self._guidance_scale)

    def _level(self, generator: torch.Generator, draw: int) -> Tensor:
        """In (0, 1). The draws of one sample lie in different parts of it, which covers all of it evenly."""
        part = (draw + torch.rand((), generator=generator).clamp(1e-4, 1 - 1e-4)) / self._config.noise_draws
        return torch.special.ndtri(part).sigmoid() if self._config.noise_density == "logit_normal" else part


def noised(clean: Tensor, sigma: Tensor, noise: Tensor) -> Noised:
    """Mix (batch, ...) clean latents with noise."""
    level = per_sample(sigma, clean)
    return Noised(clean + level * (noise - clean), sigma, noise - clean)


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """(batch,) as (batch, 1, ..., 1)."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


def squared_error(predicted: Tensor, target: Tensor) -> Tensor:
    """(batch,) mean squared error over all other dimensions."""
    return ((predicted.float() - target.float()) ** 2).flatten(1).mean(1)
