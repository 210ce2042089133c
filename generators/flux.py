"""FLUX.1-dev (and the miniature of that class) as something to sample and train."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from PIL import Image
from torch import Tensor

from assay.errors import ConfigError
from generators.embeddings import PromptEmbeddings
from generators.lora import ATTENTION
from generators.shift import mu_of_size, shifted
from generators.trainable import TrainableGenerator


class FluxGenerator(TrainableGenerator):
    """A `FluxPipeline`. Latents are packed: (batch, tokens, channels), a token for two by two latents.

    FLUX.1-dev was distilled from guidance: it takes the guidance scale as a number and needs no second branch.
    """

    PIPELINE = FluxPipeline
    TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
    # Attention (of single blocks too) and feed-forward layers, as Flow-GRPO trains them.
    LORA_TARGETS = (
        *ATTENTION,
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    )

    @property
    def embeds_guidance(self) -> bool:
        return bool(self.transformer.config.guidance_embeds)

    def sigmas(self, num_steps: int) -> list[float]:
        scheduler = self.pipeline.scheduler
        retrieve_timesteps(scheduler, sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=self._mu)
        return [float(sigma) for sigma in scheduler.sigmas]

    def shifted(self, u: Tensor) -> Tensor:
        return shifted(self.pipeline.scheduler, u, self._mu)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(tokens, channels) of one image's latents."""
        rows, columns = self._grid
        return rows * columns, self.transformer.config.in_channels

    @property
    def _token_pixels(self) -> int:
        return 2 * int(self.pipeline.vae_scale_factor)

    @property
    def _grid(self) -> tuple[int, int]:
        return self._height // self._token_pixels, self._width // self._token_pixels

    @property
    def _mu(self) -> float | None:
        return mu_of_size(self.pipeline.scheduler, calculate_shift, self.latent_shape[0], default_max_shift=1.15)

    def _encode(self, prompts: list[str], references: Sequence[Sequence[Image.Image]] | None) -> PromptEmbeddings:
        self._refuse_references(references)
        tokens, pooled, _ = self.pipeline.encode_prompt(prompts, max_sequence_length=self._max_sequence_length)
        return PromptEmbeddings(tokens.float(), pooled.float())

    def _velocity(
        self, latents: Tensor, sigma: Tensor, prompts: PromptEmbeddings, guidance_scale: float | None
    ) -> Tensor:
        assert prompts.pooled is not None
        dtype, device = self._weights_dtype, latents.device
        ids = self.pipeline._prepare_latent_image_ids(len(latents), *self._grid, device, dtype)
        velocity: Tensor = self.transformer(
            hidden_states=latents.to(dtype),
            timestep=sigma,
            guidance=self._guidance(guidance_scale, latents),
            pooled_projections=prompts.pooled.to(dtype),
            encoder_hidden_states=prompts.tokens.to(dtype),
            txt_ids=torch.zeros(prompts.tokens.shape[1], 3, device=device, dtype=dtype),
            img_ids=ids,
            return_dict=False,
        )[0]
        return velocity

    def _guidance(self, scale: float | None, latents: Tensor) -> Tensor | None:
        if not self.embeds_guidance:
            return None
        if scale is None:
            raise ConfigError("guidance_scale is missing; the model takes it as a number (FLUX.1-dev: 3.5)")
        return torch.full((len(latents),), scale, device=latents.device, dtype=torch.float32)

    def _vae_latents(self, latents: Tensor) -> Tensor:
        pipeline, config = self.pipeline, self.pipeline.vae.config
        unpacked = pipeline._unpack_latents(latents, self._height, self._width, pipeline.vae_scale_factor)
        return unpacked.to(pipeline.vae.dtype) / config.scaling_factor + config.shift_factor

    def _image_latents(self, pixels: Tensor) -> Tensor:
        vae = self.pipeline.vae
        latents = (vae.encode(pixels).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
        packed: Tensor = self.pipeline._pack_latents(latents, *latents.shape)
        return packed
