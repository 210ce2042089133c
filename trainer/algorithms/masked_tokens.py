"""What algorithms share that train a model of masked tokens: which tokens are hidden, and whose text is left out.

One draw hides a random share of an image's tokens; the sum of the log-probabilities of what is hidden stands for the
log-probability of the image. `mask_draws` of them for each sample lower the variance. All draws of a sample depend on
its seed alone, not on its batch or process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import Field, field_validator
from torch import Tensor

from assay.config import ConfigModel
from assay.errors import ConfigError
from generators.embeddings import PromptEmbeddings
from generators.showo.schedules import mask_schedule
from generators.showo.training_inputs import draw_masks
from trainer.prompts import stable_seed


class MaskedModel(Protocol):
    """A model that draws images by filling in masked tokens."""

    def log_probs(
        self, prompts: PromptEmbeddings, codes: Tensor, masked: Tensor, *, whole_vocabulary: bool = False
    ) -> Tensor: ...


class MaskedTokensConfig(ConfigModel):
    """Fields of all algorithms of this kind."""

    optimizer_steps_per_epoch: int = Field(1, ge=1)
    mask_draws: int = Field(1, ge=1, description="masks for each image; they go through one pass together")
    mask_schedule: str = Field("cosine", description="of the hidden share: cosine, linear, sigmoid, powK")

    @property
    def draws(self) -> int:
        return self.mask_draws

    @field_validator("mask_schedule")
    @classmethod
    def _is_a_schedule(cls, name: str) -> str:
        try:
            mask_schedule(name)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return name


@dataclass(frozen=True)
class MaskDraws:
    """The draws of some samples.

    Args:
        masked: (samples, draws, tokens) bool, what is hidden.
        dropped: (samples, draws) bool, where the text is left out.
    """

    masked: Tensor
    dropped: Tensor

    def prompts(self, prompts: PromptEmbeddings, negative: PromptEmbeddings) -> PromptEmbeddings:
        """(samples * draws) ids: those of the samples' prompts (samples), or of the empty one (1) if it is dropped."""
        kept = prompts.tokens[:, None]
        tokens = torch.where(self.dropped[..., None], negative.tokens.to(kept)[:, None], kept)
        return PromptEmbeddings(tokens.flatten(0, 1))


def draw(config: MaskedTokensConfig, seeds: Sequence[int], num_tokens: int, prompt_dropout: float = 0) -> MaskDraws:
    """The draws of the samples with these seeds, on the CPU. The hidden shares of one sample's draws cover all of them.

    Args:
        config: how many draws, and how much they hide.
        seeds: of the samples.
        num_tokens: of an image.
        prompt_dropout: share of draws whose text is left out.
    """
    masked, dropped = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(stable_seed("masks", seed))
        masked.append(draw_masks(config.mask_draws, num_tokens, config.mask_schedule, generator, evenly=True))
        dropped.append(torch.rand(config.mask_draws, generator=generator) < prompt_dropout)
    return MaskDraws(torch.stack(masked), torch.stack(dropped))
