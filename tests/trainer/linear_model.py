"""A velocity model that one can compute with by hand: v = w x, with one trained number w."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from generators.embeddings import PromptEmbeddings


class LinearModel:
    """Predicts `weight` times the latents; without its adapter, nothing."""

    latent_shape = (2, 3)
    embeds_guidance = False

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = torch.nn.Parameter(torch.tensor([weight]))
        self._adapted = True

    def predict_velocity(
        self, latents: Tensor, sigma: Tensor, prompts: PromptEmbeddings, guidance_scale: float | None = None
    ) -> Tensor:
        return self.weight * latents if self._adapted else torch.zeros_like(latents)

    def shifted(self, u: Tensor) -> Tensor:
        """Shift 3, as SD3's."""
        return 3 * u / (1 + 2 * u)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        self._adapted = False
        try:
            yield
        finally:
            self._adapted = True


def no_prompts(batch: int) -> PromptEmbeddings:
    return PromptEmbeddings(torch.zeros(batch, 1, 1))
