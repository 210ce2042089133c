"""Show-o as a diffusers pipeline: texts in, pictures out, to be used like any other model.

A folder in its layout, made by `save_pretrained` or by `python -m generators.showo.assemble`:

    model_index.json   says what is where, and the settings that the model is best drawn with
    transformer/       as in `showlab/show-o`
    vq_model/          as in `showlab/magvitv2`
    tokenizer/         as in `microsoft/phi-1_5`
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin as TransformerLoraLoaderMixin
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer

from assay.errors import ConfigError
from generators.model_index import read_model_index
from generators.showo.magvit import MAGVITv2
from generators.showo.picture_codes import decode_pictures, encode_pictures, token_grid
from generators.showo.prompting import PromptLayout
from generators.showo.sampler import MaskPredictSampling
from generators.showo.sampling_settings import SamplingSettings
from generators.showo.transformer import Showo

SETTINGS = ("max_sequence_length", "num_inference_steps", "guidance_scale")  # of model_index.json


class ShowoPipeline(DiffusionPipeline, TransformerLoraLoaderMixin):
    """Transformer, tokenizer of pictures, and tokenizer of texts.

    Args:
        transformer: the model.
        vq_model: with as many codes as the transformer knows.
        tokenizer: with at most as many tokens as the transformer knows.
        max_sequence_length: of a text (see `PromptLayout`).
        num_inference_steps: unless a call says otherwise; None takes the published 18, or 50 above 256 tokens.
        guidance_scale: likewise; None takes the published 1.75, or 5 above 256 tokens.

    Raises:
        ConfigError: the parts do not fit each other.
    """

    model_cpu_offload_seq = "transformer->vq_model"

    def __init__(
        self,
        transformer: Showo,
        vq_model: MAGVITv2,
        tokenizer: Any,
        max_sequence_length: int = 128,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> None:
        super().__init__()
        if vq_model.codebook_size != transformer.config.codebook_size:
            raise ConfigError(
                f"codebook_size of the transformer is {transformer.config.codebook_size}; "
                f"allowed: {vq_model.codebook_size}, that of the vq_model"
            )
        large = transformer.config.num_vq_tokens > 256
        self.register_modules(transformer=transformer, vq_model=vq_model, tokenizer=tokenizer)
        self.register_to_config(
            max_sequence_length=max_sequence_length,
            num_inference_steps=(50 if large else 18) if num_inference_steps is None else num_inference_steps,
            guidance_scale=(5.0 if large else 1.75) if guidance_scale is None else guidance_scale,
        )
        self.layout = PromptLayout(transformer.vocabulary, tokenizer, max_sequence_length)

    @classmethod
    def from_pretrained(cls, model: str | Path, *, dtype: torch.dtype = torch.float32) -> Self:
        """Load a folder in this layout.

        Args:
            dtype: of the transformer; pictures are encoded and decoded in float32 whatever it is.

        Raises:
            ConfigError: files are missing or broken, or the parts do not fit each other.
        """
        folder = Path(model)
        if not (folder / "model_index.json").is_file():
            raise ConfigError(
                f"model = {str(model)!r} has no model_index.json; `generators.showo.assemble` makes a folder"
            )
        index = read_model_index(folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        except (OSError, ValueError) as error:
            raise ConfigError(f"model = {str(model)!r}: its tokenizer cannot be loaded: {error}") from error
        return cls(
            Showo.from_pretrained(folder / "transformer", dtype=dtype),
            MAGVITv2.from_pretrained(folder / "vq_model"),
            tokenizer,
            **{name: index[name] for name in SETTINGS if name in index},
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        max_sequence_length: int | None = None,
        output_type: str = "pil",
        first: int = 0,
        **sampling: Any,
    ) -> ImagePipelineOutput:
        """Draw one picture for each prompt.

        Args:
            prompt: one or several.
            generator: one for each prompt; None draws seeds from torch's own.
            num_inference_steps: the model's own where None, as all that follow.
            guidance_scale: see `SamplingSettings`; 0 is off.
            height: in pixels. The model has a fixed number of tokens, which height and width together must have.
            width: likewise.
            max_sequence_length: of a text.
            output_type: "pil" for pictures, "np" for (prompts, height, width, 3) float32 in [0, 1].
            first: see `MaskPredictSampling`.
            sampling: further fields of `SamplingSettings`: temperature, schedule, anneal, temperature_carry.

        Raises:
            ConfigError: a setting does not fit.
            ArithmeticError: the model's numbers are not finite.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        grid = self.grid(height, width)
        if output_type not in ("pil", "np"):
            raise ConfigError(f"output_type is {output_type!r}; allowed: pil, np")
        generators = [generator] if isinstance(generator, torch.Generator) else generator
        if generators is None:
            generators = [torch.Generator().manual_seed(int(torch.randint(2**62, ()))) for _ in prompts]
        settings = self.sampling_settings(num_inference_steps, guidance_scale, **sampling)
        run = self.start(prompts, generators, settings, first=first, max_sequence_length=max_sequence_length)
        for _ in self.progress_bar(range(settings.num_steps)):
            run.step()
        pictures = self.decode(run.codes, grid)
        if output_type == "np":
            return ImagePipelineOutput(images=np.stack(pictures).astype(np.float32) / 255)
        return ImagePipelineOutput(images=[Image.fromarray(picture) for picture in pictures])

    def sampling_settings(
        self, num_inference_steps: int | None = None, guidance_scale: float | None = None, **others: Any
    ) -> SamplingSettings:
        """Settings of sampling, the model's own where they are None.

        Raises:
            ConfigError: a value is out of range.
        """
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        return SamplingSettings(num_steps=steps, guidance_scale=scale, **others)

    def start(
        self,
        prompts: Sequence[str],
        generators: Sequence[torch.Generator],
        settings: SamplingSettings | None = None,
        *,
        first: int = 0,
        max_sequence_length: int | None = None,
    ) -> MaskPredictSampling:
        """Begin to draw, a candidate for each prompt and its generator: the caller takes the steps.

        Args:
            prompts: several may be the same.
            generators: one each.
            settings: None for the model's own.
            first: see `MaskPredictSampling`.
            max_sequence_length: of a text; None for the model's own.
        """
        layout = self.layout
        if max_sequence_length not in (None, self.config.max_sequence_length):
            layout = PromptLayout(self.transformer.vocabulary, self.tokenizer, max_sequence_length)
        return MaskPredictSampling(
            self.transformer,
            layout.prefixes(prompts),
            layout.prefixes([""]),
            generators,
            settings or self.sampling_settings(),
            first,
        )

    def decode(self, codes: Tensor, grid: tuple[int, int] | None = None) -> list[NDArray[np.uint8]]:
        """See `decode_pictures`."""
        return decode_pictures(self.vq_model, codes, grid)

    def encode_images(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """See `encode_pictures`; they must have as many tokens as the model draws.

        Raises:
            ConfigError: they do not.
        """
        if len(images):
            self.grid(*images[0].shape[:2])
        return encode_pictures(self.vq_model, images)

    def grid(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """See `token_grid`."""
        return token_grid(self.transformer.config.num_vq_tokens, self.vq_model.token_pixels, height, width)
