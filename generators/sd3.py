"""Stable Diffusion 3 and 3.5 (and the miniature of that class) as something one can sample and train.

Wraps a diffusers `StableDiffusion3Pipeline`; holds no copy of its code. Rewards, the meaning of prompts, and losses are
not known here.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from numpy.typing import NDArray
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from assay.errors import ConfigError
from generators.embeddings import PromptEmbeddings
from generators.text_to_image import absent_components

# The attention projections of both streams, as Flow-GRPO trains them.
LORA_TARGETS = (
    "attn.add_k_proj",
    "attn.add_q_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "attn.to_k",
    "attn.to_q",
    "attn.to_v",
    "attn.to_out.0",
)
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class SD3Generator:
    """A `StableDiffusion3Pipeline` opened up for reinforcement learning.

    Args:
        pipeline: the loaded pipeline; its transformer is what is trained.
        height: image height in pixels, a multiple of the VAE's scale times the patch size.
        width: image width in pixels, likewise.
        max_sequence_length: T5 tokens per prompt; without a T5, the number of zero tokens in its place.
        autocast_dtype: the transformer computes in it (its weights stay as they are); None for no autocast.

    Raises:
        ConfigError: the size does not fit.
    """

    def __init__(
        self,
        pipeline: StableDiffusion3Pipeline,
        *,
        height: int,
        width: int,
        max_sequence_length: int,
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        self.pipeline = pipeline
        self._height, self._width = height, width
        self._max_sequence_length = max_sequence_length
        self._autocast_dtype = autocast_dtype
        unit = pipeline.vae_scale_factor * pipeline.transformer.config.patch_size
        for name, side in (("height", height), ("width", width)):
            if side % unit:
                raise ConfigError(f"model.{name} is {side}; it must be a multiple of {unit}")
        pipeline.set_progress_bar_config(disable=True)
        for module in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3):
            if module is not None:
                module.requires_grad_(False)
        pipeline.transformer.requires_grad_(False)

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        height: int,
        width: int,
        max_sequence_length: int,
        device: torch.device | str = "cpu",
        encoder_dtype: torch.dtype = torch.float32,
        autocast_dtype: torch.dtype | None = None,
    ) -> "SD3Generator":
        """Load a hub id or a local folder. Text encoders are in `encoder_dtype`; VAE and transformer in float32."""
        return cls(
            load_pipeline(model, encoder_dtype).to(device),
            height=height,
            width=width,
            max_sequence_length=max_sequence_length,
            autocast_dtype=autocast_dtype,
        )

    @property
    def transformer(self) -> Any:
        """The `SD3Transformer2DModel`."""
        return self.pipeline.transformer

    def fuse_lora(self, path: str) -> None:
        """Merge a LoRA (a cold start) into the weights, so that the reference policy has it too."""
        self.pipeline.load_lora_weights(path)
        self.pipeline.fuse_lora()
        self.pipeline.unload_lora_weights()

    def add_lora(self, rank: int, alpha: int) -> list[torch.nn.Parameter]:
        """Put a fresh LoRA on the attention projections and return its parameters, the only ones that train."""
        config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(LORA_TARGETS))
        self.transformer.add_adapter(config)
        return [parameter for parameter in self.transformer.parameters() if parameter.requires_grad]

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Inside, the transformer is the one before `add_lora`: the reference policy."""
        self.transformer.disable_adapters()
        try:
            yield
        finally:
            self.transformer.enable_adapters()

    def save_lora(self, folder: Path) -> None:
        """Save in diffusers' format: `pipe.load_lora_weights(folder)` reads it. Replaces the folder as a whole."""
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        StableDiffusion3Pipeline.save_lora_weights(
            partial,
            transformer_lora_layers=get_peft_model_state_dict(self.transformer),
            transformer_lora_adapter_metadata=self.transformer.peft_config["default"].to_dict(),
        )
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> PromptEmbeddings:
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=prompts,
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=self._max_sequence_length,
        )
        return PromptEmbeddings(tokens.float(), pooled.float())

    def sigmas(self, num_steps: int) -> list[float]:
        """The scheduler's noise levels, num_steps + 1 values from 1 down to 0."""
        self.pipeline.scheduler.set_timesteps(num_steps)
        return [float(sigma) for sigma in self.pipeline.scheduler.sigmas]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image's latents."""
        scale = self.pipeline.vae_scale_factor
        return self.transformer.config.in_channels, self._height // scale, self._width // scale

    def predict_velocity(self, latents: Tensor, sigma: Tensor, prompts: PromptEmbeddings) -> Tensor:
        """Velocity (noise - clean image) of `latents` (batch, C, H, W) at noise levels `sigma` (batch,), in float32."""
        dtype = self._autocast_dtype
        with torch.autocast(latents.device.type, dtype, enabled=dtype is not None):
            velocity: Tensor = self.transformer(
                hidden_states=latents,
                timestep=sigma * self.pipeline.scheduler.config.num_train_timesteps,
                encoder_hidden_states=prompts.tokens,
                pooled_projections=prompts.pooled,
                return_dict=False,
            )[0]
        return velocity.float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[NDArray[np.uint8]]:
        """Images of `latents` (batch, C, H, W): a list of (height, width, 3) uint8 RGB.

        Raises:
            ArithmeticError: the latents or the decoded pixels are not finite; such an image must not be scored.
        """
        config = self.pipeline.vae.config
        decoded = self.pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor, return_dict=False)[0]
        if not bool(decoded.isfinite().all()):
            raise ArithmeticError("a sampled image is not finite: the policy has diverged, or the precision overflows")
        pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def load_pipeline(model: str, encoder_dtype: torch.dtype = torch.float32) -> StableDiffusion3Pipeline:
    """Load a pipeline, its text encoders in `encoder_dtype` and the rest in float32.

    Components that its `model_index.json` leaves out (a T5, say) stay None.
    """
    dtypes = {"default": torch.float32} | dict.fromkeys(TEXT_ENCODERS, encoder_dtype)
    return StableDiffusion3Pipeline.from_pretrained(model, dtype=dtypes, **absent_components(model))
