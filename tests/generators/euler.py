"""The plain sampler, written once more, against which the pipelines' own are held."""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from generators.embeddings import PromptEmbeddings
from generators.trainable import TrainableGenerator


def noise(generator: TrainableGenerator, number: int, seed: int = 0) -> Tensor:
    return torch.randn((number, *generator.latent_shape), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def sample(
    generator: TrainableGenerator,
    latents: Tensor,
    prompts: PromptEmbeddings,
    steps: int,
    *,
    guidance_scale: float = 1.0,
    negative: PromptEmbeddings | None = None,
) -> np.ndarray:
    """(batch, height, width, 3) int from the given noise."""
    sigmas = generator.sigmas(steps)
    for sigma, following in pairwise(sigmas):
        level = torch.full((len(latents),), sigma)
        velocity = generator.predict_velocity(latents, level, prompts, guidance_scale)
        if negative is not None:
            unconditional = generator.predict_velocity(latents, level, negative.matching(prompts))
            velocity = unconditional + guidance_scale * (velocity - unconditional)
        latents = latents + (following - sigma) * velocity
    return np.stack(generator.decode(latents)).astype(int)


def pipeline_pixels(images: np.ndarray) -> np.ndarray:
    """A pipeline's images in [0, 1] as levels of 0 to 255."""
    return (images * 255).round().astype(int)
