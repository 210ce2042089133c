"""What one can sample and train: a diffusers pipeline of a rectified-flow transformer, opened up.

Rectified flow: x_sigma = (1 - sigma) x_0 + sigma noise, and the transformer predicts the velocity noise - x_0. Rewards,
the meaning of prompts, and losses are not known here. Subclasses, one for each pipeline class, say how texts and images
become the transformer's inputs; they call the pipeline's own functions and hold no copy of its code.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from assay.errors import ConfigError
from generators.embeddings import PromptEmbeddings
from generators.opened import OpenedPipeline
from generators.text_to_image import absent_components, locate_model


class TrainableGenerator(OpenedPipeline):
    """A diffusers pipeline of a rectified-flow transformer. Nothing of it trains but what `add_lora` adds.

    Args:
        pipeline: the loaded pipeline; its transformer is what is trained.
        height: image height in pixels, a multiple of the pixels that a token covers.
        width: image width in pixels, likewise.
        max_sequence_length: tokens per prompt.
        autocast_dtype: the transformer computes in it (its weights stay as they are); None for no autocast.

    Raises:
        ConfigError: the size does not fit, or the pipeline's scheduler is of another kind.
    """

    can_be_sharded = True

    def __init__(
        self,
        pipeline: Any,
        *,
        height: int,
        width: int,
        max_sequence_length: int,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            pipeline,
            height=height,
            width=width,
            max_sequence_length=max_sequence_length,
            autocast_dtype=autocast_dtype,
        )
        self._weights_dtype: torch.dtype = pipeline.transformer.dtype
        for name, side in (("height", height), ("width", width)):
            if side < 1 or side % self._token_pixels:
                raise ConfigError(f"model.{name} is {side}; it must be a multiple of {self._token_pixels}")
        if not isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler):
            raise ConfigError(
                f"the model's scheduler is a {type(pipeline.scheduler).__name__}; "
                f"allowed: a {FlowMatchEulerDiscreteScheduler.__name__}"
            )
        pipeline.set_progress_bar_config(disable=True)
        for module in (pipeline.vae, pipeline.transformer, *self._text_encoders()):
            module.requires_grad_(False)

    @classmethod
    def load_pipeline(
        cls, model: str, encoder_dtype: torch.dtype = torch.float32, weights_dtype: torch.dtype = torch.float32
    ) -> Any:
        """The pipeline alone. Components that its `model_index.json` leaves out (a T5, say) stay None."""
        folder = locate_model(model)
        assert folder is not None
        dtypes = {"default": torch.float32, "transformer": weights_dtype}
        dtypes |= dict.fromkeys(cls.TEXT_ENCODERS, encoder_dtype)
        try:
            return cls.PIPELINE.from_pretrained(folder, dtype=dtypes, **absent_components(folder))
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(f"model = {model!r} cannot be loaded: {error}") from error

    @property
    def embeds_guidance(self) -> bool:
        """Whether the guidance scale goes into the transformer as a number, so that there is no second branch."""
        return False

    def predict_velocity(
        self, latents: Tensor, sigma: Tensor, prompts: PromptEmbeddings, guidance_scale: float | None = None
    ) -> Tensor:
        """Velocity (noise - clean image) of `latents` (batch, *latent_shape) at noise levels `sigma` (batch,).

        Args:
            guidance_scale: read only where `embeds_guidance`, and needed there.

        Returns:
            (batch, *latent_shape) float32.
        """
        dtype = self._autocast_dtype
        with torch.autocast(latents.device.type, dtype, enabled=dtype is not None):
            velocity = self._velocity(latents, sigma, prompts, guidance_scale)
        return velocity.float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[NDArray[np.uint8]]:
        """Images of `latents` (batch, *latent_shape): a list of (height, width, 3) uint8 RGB.

        Raises:
            ArithmeticError: the latents or the decoded pixels are not finite; such an image must not be scored.
        """
        decoded = self.pipeline.vae.decode(self._vae_latents(latents), return_dict=False)[0]
        if not bool(decoded.isfinite().all()):
            raise ArithmeticError("a sampled image is not finite: the policy has diverged, or the precision overflows")
        pixels = ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return list(pixels.permute(0, 2, 3, 1).cpu().numpy())

    @torch.no_grad()
    def encode_images(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Clean latents (batch, *latent_shape) float32 of (height, width, 3) uint8 RGB; the posterior's mode, no noise.

        Raises:
            ConfigError: an image has another size or type.
        """
        wanted = (self._height, self._width, 3)
        for index, image in enumerate(images):
            if image.shape != wanted or image.dtype != np.uint8:
                raise ConfigError(f"images[{index}] is {image.dtype} {image.shape}; allowed: uint8 {wanted}")
        pixels = torch.from_numpy(np.stack(images)).to(self.pipeline.vae.device).permute(0, 3, 1, 2)
        return self._image_latents((pixels / 127.5 - 1).to(self.pipeline.vae.dtype)).float()

    @abstractmethod
    def sigmas(self, num_steps: int) -> list[float]:
        """The noise levels of the pipeline's own schedule at this size: num_steps + 1 values from 1 down to 0."""

    @abstractmethod
    def shifted(self, u: Tensor) -> Tensor:
        """Move noise levels `u` in (0, 1) as the model's schedule moves even ones: to draw levels to train at."""

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one image's latents, as `predict_velocity` and `decode` take them."""

    @property
    def image_tokens(self) -> int:
        tokens = int(np.prod(self.latent_shape)) // int(self.transformer.config.in_channels)
        if len(self.latent_shape) == 3:  # not packed: the transformer makes tokens of patches
            tokens //= int(self.transformer.config.patch_size) ** 2
        return tokens

    @property
    @abstractmethod
    def _token_pixels(self) -> int:
        """Height and width of the square that one token covers."""

    @abstractmethod
    def _velocity(
        self, latents: Tensor, sigma: Tensor, prompts: PromptEmbeddings, guidance_scale: float | None
    ) -> Tensor: ...

    @abstractmethod
    def _vae_latents(self, latents: Tensor) -> Tensor:
        """Latents as the transformer has them -> as the VAE decodes them, (batch, channels, height, width)."""

    @abstractmethod
    def _image_latents(self, pixels: Tensor) -> Tensor:
        """(batch, 3, height, width) in [-1, 1] -> latents as the transformer has them."""
