"""FLUX.2 klein base (and the miniature of that class) as something to sample and train, with or without references.

For batch jobs, and for the distilled checkpoints, see `flux2_klein.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu, retrieve_timesteps
from PIL import Image
from torch import Tensor

from assay.errors import ConfigError
from generators.embeddings import PromptEmbeddings
from generators.flux2_klein import BASE_STEPS, text_layers
from generators.lora import ATTENTION
from generators.shift import shifted
from generators.trainable import TrainableGenerator

MOST_REFERENCE_PIXELS = 1024 * 1024  # the pipeline makes larger references smaller


class Flux2KleinTrainable(TrainableGenerator):
    """A `Flux2KleinPipeline`. Latents are packed: (batch, tokens, channels), normalised as the transformer sees them.

    The negative branch of guidance is the empty prompt with the same references (`PromptEmbeddings.matching`).
    """

    PIPELINE = Flux2KleinPipeline
    TEXT_ENCODERS = ("text_encoder",)
    # The attention of double blocks, and of single ones, where it shares its layers with the feed-forward part.
    LORA_TARGETS = (
        *ATTENTION,
        "attn.to_qkv_mlp_proj",
        "attn.to_out",
    )

    def __init__(self, pipeline: Any, **settings: Any) -> None:
        super().__init__(pipeline, **settings)
        rows, columns = self._height // self._token_pixels, self._width // self._token_pixels
        self._ids: Tensor = pipeline._prepare_latent_ids(torch.zeros(1, 1, rows, columns))  # (1, tokens, 4)
        self._text_layers = text_layers(pipeline.text_encoder.config.num_hidden_layers)

    def sigmas(self, num_steps: int) -> list[float]:
        scheduler = self.pipeline.scheduler
        mu = compute_empirical_mu(self.latent_shape[0], num_steps)
        retrieve_timesteps(scheduler, sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=mu)
        return [float(sigma) for sigma in scheduler.sigmas]

    def shifted(self, u: Tensor) -> Tensor:
        """As a schedule of 50 steps is shifted, the published one; fewer steps are shifted further."""
        dynamic = self.pipeline.scheduler.config.use_dynamic_shifting
        mu = compute_empirical_mu(self.latent_shape[0], BASE_STEPS) if dynamic else None
        return shifted(self.pipeline.scheduler, u, mu)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(tokens, channels) of one image's latents."""
        return self._height * self._width // self._token_pixels**2, self.transformer.config.in_channels

    @property
    def _token_pixels(self) -> int:
        return 2 * int(self.pipeline.vae_scale_factor)

    def _encode(self, prompts: list[str], references: Sequence[Sequence[Image.Image]] | None) -> PromptEmbeddings:
        tokens, _ = self.pipeline.encode_prompt(
            prompts, max_sequence_length=self._max_sequence_length, text_encoder_out_layers=self._text_layers
        )
        if references is None:
            return PromptEmbeddings(tokens.float())
        rows = [
            PromptEmbeddings(own.float()[None], None, *self._encode_references(images))
            for own, images in zip(tokens, references, strict=True)
        ]
        return PromptEmbeddings.concatenate(rows)

    def _encode_references(self, images: Sequence[Image.Image]) -> tuple[Tensor | None, Tensor | None]:
        """Latents (1, tokens, channels) and ids (1, tokens, 4) of one prompt's references."""
        if not images:
            return None, None
        vae = self.pipeline.vae
        latents, ids = self.pipeline.prepare_image_latents(
            [self._preprocessed(image) for image in images], 1, None, vae.device, vae.dtype
        )
        return latents.float(), ids

    def _preprocessed(self, image: Image.Image) -> Tensor:
        """Made smaller if it is large, and cropped to whole tokens, as the pipeline's call does with its `image`."""
        processor, unit = self.pipeline.image_processor, self._token_pixels
        try:
            processor.check_image_input(image)
        except ValueError as error:
            raise ConfigError(f"a reference image does not fit: {error}") from error
        if image.width * image.height > MOST_REFERENCE_PIXELS:
            image = processor._resize_to_target_area(image, MOST_REFERENCE_PIXELS)
        height, width = image.height // unit * unit, image.width // unit * unit
        pixels: Tensor = processor.preprocess(image, height=height, width=width, resize_mode="crop")
        return pixels

    def _velocity(
        self, latents: Tensor, sigma: Tensor, prompts: PromptEmbeddings, guidance_scale: float | None
    ) -> Tensor:
        ids, hidden = self._ids.to(latents.device).expand(len(latents), -1, -1), latents
        if prompts.references is not None and prompts.reference_ids is not None:
            hidden = torch.cat([hidden, prompts.references], dim=1)
            ids = torch.cat([ids, prompts.reference_ids], dim=1)
        velocity: Tensor = self.transformer(
            hidden_states=hidden.to(self._weights_dtype),
            timestep=sigma,
            guidance=None,
            encoder_hidden_states=prompts.tokens.to(self._weights_dtype),
            txt_ids=self.pipeline._prepare_text_ids(prompts.tokens[:1]).to(latents.device),
            img_ids=ids,
            return_dict=False,
        )[0]
        return velocity[:, : latents.shape[1]]

    def _vae_latents(self, latents: Tensor) -> Tensor:
        pipeline, vae = self.pipeline, self.pipeline.vae
        ids = self._ids.to(latents.device).expand(len(latents), -1, -1)
        grid = (self._height // self._token_pixels, self._width // self._token_pixels)
        unpacked = pipeline._unpack_latents_with_ids(latents, ids, *grid).to(vae.dtype)
        # undoes what the pipeline's _encode_vae_image does
        mean = vae.bn.running_mean.view(1, -1, 1, 1).to(unpacked)
        deviation = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).to(unpacked)
        patches: Tensor = pipeline._unpatchify_latents(unpacked * deviation + mean)
        return patches

    def _image_latents(self, pixels: Tensor) -> Tensor:
        packed: Tensor = self.pipeline._pack_latents(self.pipeline._encode_vae_image(pixels, generator=None))
        return packed
