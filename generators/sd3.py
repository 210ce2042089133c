"""Stable Diffusion 3 and 3.5, medium and large (and the miniature of that class), as something to sample and train."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift, retrieve_timesteps
from PIL import Image
from torch import Tensor

from generators.embeddings import PromptEmbeddings
from generators.lora import ATTENTION
from generators.shift import mu_of_size, shifted
from generators.trainable import TrainableGenerator


class SD3Generator(TrainableGenerator):
    """A `StableDiffusion3Pipeline`. `max_sequence_length` counts T5 tokens; without a T5, the zero tokens in its place.

    Latents are (batch, channels, height / 8, width / 8) with the published VAE.
    """

    PIPELINE = StableDiffusion3Pipeline
    TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
    # The attention projections of both streams, as Flow-GRPO trains them.
    LORA_TARGETS = ATTENTION

    def sigmas(self, num_steps: int) -> list[float]:
        scheduler = self.pipeline.scheduler
        retrieve_timesteps(scheduler, num_steps, **({} if self._mu is None else {"mu": self._mu}))
        return [float(sigma) for sigma in scheduler.sigmas]

    def shifted(self, u: Tensor) -> Tensor:
        return shifted(self.pipeline.scheduler, u, self._mu)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image's latents."""
        scale = self.pipeline.vae_scale_factor
        return self.transformer.config.in_channels, self._height // scale, self._width // scale

    @property
    def prompt_tokens(self) -> int:
        clip: int = self.pipeline.tokenizer_max_length
        return clip + self._max_sequence_length

    @property
    def _token_pixels(self) -> int:
        pixels: int = self.pipeline.vae_scale_factor * self.transformer.config.patch_size
        return pixels

    @property
    def _mu(self) -> float | None:
        """What the pipeline shifts by where its scheduler shifts by the image's size; None for a fixed shift."""
        tokens = self._height * self._width // self._token_pixels**2
        return mu_of_size(self.pipeline.scheduler, calculate_shift, tokens, default_max_shift=1.16)

    def _encode(self, prompts: list[str], references: Sequence[Sequence[Image.Image]] | None) -> PromptEmbeddings:
        self._refuse_references(references)
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=prompts,
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=self._max_sequence_length,
        )
        return PromptEmbeddings(tokens.float(), pooled.float())

    def _velocity(
        self, latents: Tensor, sigma: Tensor, prompts: PromptEmbeddings, guidance_scale: float | None
    ) -> Tensor:
        assert prompts.pooled is not None
        velocity: Tensor = self.transformer(
            hidden_states=latents.to(self._weights_dtype),
            timestep=sigma * self.pipeline.scheduler.config.num_train_timesteps,
            encoder_hidden_states=prompts.tokens.to(self._weights_dtype),
            pooled_projections=prompts.pooled.to(self._weights_dtype),
            return_dict=False,
        )[0]
        return velocity

    def _vae_latents(self, latents: Tensor) -> Tensor:
        config = self.pipeline.vae.config
        return latents.to(self.pipeline.vae.dtype) / config.scaling_factor + config.shift_factor

    def _image_latents(self, pixels: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents: Tensor = vae.encode(pixels).latent_dist.mode()
        return (latents - vae.config.shift_factor) * vae.config.scaling_factor


def load_pipeline(model: str, encoder_dtype: torch.dtype = torch.float32) -> Any:
    """The `StableDiffusion3Pipeline` alone, its text encoders in `encoder_dtype` and the rest in float32."""
    return SD3Generator.load_pipeline(model, encoder_dtype)
