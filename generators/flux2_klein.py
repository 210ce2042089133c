"""FLUX.2 klein (4B, 9B, base or distilled, and the miniature of that class): images from instructions and references.

Wraps a diffusers `Flux2KleinPipeline`; holds no copy of its code. Where images go and where instructions come from is
not known here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image
from safetensors import SafetensorError

from assay.errors import ConfigError
from generators.model_index import read_model_index

#: What the published checkpoints are meant to be run with (their model cards).
DISTILLED_STEPS, BASE_STEPS = 4, 50
BASE_GUIDANCE_SCALE = 4.0
LONGEST_PROMPT = 512  # tokens; the pipeline's own limit


class Flux2KleinGenerator:
    """A `Flux2KleinPipeline` with the settings of one run.

    Args:
        pipeline: the loaded pipeline.
        num_inference_steps: denoising steps, at least 1.
        height: image height in pixels, a multiple of the VAE's scale times 2; None takes the first reference's.
        width: likewise.
        guidance_scale: of classifier-free guidance; 1 is off. Distilled checkpoints ignore it.

    Raises:
        ConfigError: a size does not fit.
    """

    def __init__(
        self,
        pipeline: Flux2KleinPipeline,
        *,
        num_inference_steps: int,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float = BASE_GUIDANCE_SCALE,
    ) -> None:
        unit = 2 * pipeline.vae_scale_factor
        for name, side in (("height", height), ("width", width)):
            if side is not None and side % unit:
                raise ConfigError(f"{name} = {side}; allowed: multiples of {unit}")
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline
        self._settings: dict[str, Any] = {
            "num_inference_steps": num_inference_steps,
            "height": height,
            "width": width,
            "guidance_scale": 1.0 if pipeline.config.is_distilled else guidance_scale,
            "max_sequence_length": min(LONGEST_PROMPT, pipeline.tokenizer.model_max_length),
            "text_encoder_out_layers": text_layers(pipeline.text_encoder.config.num_hidden_layers),
        }

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], references: Sequence[Image.Image], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """One image for each prompt, all with the same references, in one pass.

        Args:
            prompts: instructions or descriptions.
            references: RGB, at least 64 pixels a side, in the order in which the prompts speak of them; may be empty.
            seeds: one for each prompt, in [0, 2**64). An image depends on its own seed alone, but for rounding.

        Raises:
            ValueError: a reference is too small or too long; from the pipeline.
            ArithmeticError: an image is not finite.
        """
        # Noise is drawn on the CPU, so that it is the same on every device.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        images = self.pipeline(
            image=list(references) or None,
            prompt=list(prompts),
            generator=generators,
            output_type="np",
            **self._settings,
        ).images
        if not np.isfinite(images).all():
            raise ArithmeticError("a generated image is not finite: the precision overflows, or the weights are broken")
        return [Image.fromarray(pixels) for pixels in (images * 255).round().astype(np.uint8)]


def load_pipeline(folder: Path, device: str, dtype: torch.dtype) -> Flux2KleinPipeline:
    """Load a checkpoint from a folder in the hub's layout onto a device.

    Raises:
        ConfigError: files of it are missing or broken.
    """
    try:
        pipeline = Flux2KleinPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"flux_ckpt = {str(folder)!r} cannot be loaded: {error}") from error
    return pipeline.to(device)


def locate_checkpoint(name: str) -> Path:
    """The folder of a checkpoint: a folder, or a name on the Hugging Face hub, whose files are then downloaded.

    Raises:
        ConfigError: it is neither, or no FLUX.2 klein pipeline.
    """
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(Flux2KleinPipeline.download(name))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"flux_ckpt = {name!r}: no such folder, and it cannot be had from the Hugging Face hub: {error}"
            ) from error
    pipeline_class = read_model_index(folder).get("_class_name")
    if pipeline_class != Flux2KleinPipeline.__name__:
        raise ConfigError(
            f"flux_ckpt = {name!r} holds a {pipeline_class or 'folder without model_index.json'}; "
            f"allowed: a {Flux2KleinPipeline.__name__}"
        )
    return folder


def is_distilled(folder: Path) -> bool:
    """Whether a checkpoint is meant for few steps without guidance."""
    return bool(read_model_index(folder).get("is_distilled", False))


def text_layers(num_hidden_layers: int) -> tuple[int, int, int]:
    """The text encoder's layers that the transformer reads: a quarter, a half and three quarters up.

    That is (9, 18, 27) of the 36 layers of Qwen3-4B and Qwen3-8B, which klein uses.
    """
    return num_hidden_layers // 4, num_hidden_layers // 2, 3 * num_hidden_layers // 4
