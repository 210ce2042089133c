"""Show-o opened up for training: drawing with the present weights, and how likely they hold given pictures to be."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from assay.errors import ConfigError
from generators.embeddings import PromptEmbeddings
from generators.opened import OpenedPipeline
from generators.showo.attention_mask import text_to_image_mask
from generators.showo.pipeline import ShowoPipeline
from generators.showo.prompting import image_segments
from generators.showo.sampler import MaskPredictSampling
from generators.showo.sampling_settings import SamplingSettings
from generators.showo.training_inputs import mask_images
from generators.text_to_image import locate_model


class ShowoGenerator(OpenedPipeline):
    """A `ShowoPipeline`. Pictures are image codes (batch, tokens) int64, row by row; prompts are the ids before soi.

    What trains is what `add_lora` adds, or, after `train_all`, the whole language model.

    Args:
        pipeline: the loaded pipeline.
        height: image height in pixels; the model has one number of tokens, which the sizes must have.
        width: likewise.
        max_sequence_length: tokens of a prompt, that of the pipeline: it decides where the image stands.
        autocast_dtype: the transformer computes in it; None for no autocast.

    Raises:
        ConfigError: size or length are not the model's.
    """

    PIPELINE = ShowoPipeline
    TEXT_ENCODERS = ("tokenizer",)
    LORA_TARGETS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense")
    can_be_sharded = False  # sampling and training go past `forward`, into which sharding hooks

    def __init__(
        self,
        pipeline: ShowoPipeline,
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
        own = pipeline.config.max_sequence_length
        if max_sequence_length != own:
            raise ConfigError(f"model.max_sequence_length is {max_sequence_length}; allowed: {own}, the model's own")
        self._grid = pipeline.grid(height, width)
        self._whole = self._recompute = False
        pipeline.set_progress_bar_config(disable=True)
        for module in (pipeline.vq_model, pipeline.transformer):
            module.requires_grad_(False)

    @classmethod
    def load_pipeline(
        cls, model: str, encoder_dtype: torch.dtype = torch.float32, weights_dtype: torch.dtype = torch.float32
    ) -> ShowoPipeline:
        """A folder as `generators.showo.assemble` makes it, or one like it on the hub.

        Args:
            encoder_dtype: not used: Show-o reads texts itself.
        """
        folder = locate_model(model)
        assert folder is not None
        return ShowoPipeline.from_pretrained(folder, dtype=weights_dtype)

    @property
    def result(self) -> str:
        return "model" if self._whole else "lora"

    @property
    def image_tokens(self) -> int:
        return int(self.transformer.config.num_vq_tokens)

    @property
    def prompt_tokens(self) -> int:
        return self._max_sequence_length + 1  # with the mark of the task

    def train_all(self) -> list[torch.nn.Parameter]:
        """Let the whole language model train, embeddings and head included, and return its parameters.

        Raises:
            ConfigError: its weights are not float32; an optimizer's small steps would be rounded away.
        """
        if self.transformer.dtype != torch.float32:
            raise ConfigError(f"model.weights_dtype is {self.transformer.dtype}; allowed with model.train_all: float32")
        self._whole = True
        self.transformer.showo.requires_grad_(True)  # not the projector of CLIP features, which drawing does not use
        return list(self.transformer.showo.parameters())

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """As for others; without an adapter, nothing changes."""
        if self._whole:
            yield
            return
        with super().without_adapter():
            yield

    def save_result(self, folder: Path, values: Mapping[str, Tensor] | None = None) -> None:
        """Save the LoRA, or the whole model as a folder that `ShowoPipeline.from_pretrained` loads.

        Args:
            folder: replaced as a whole.
            values: of the trained parameters by name; None for those in place.
        """
        if not self._whole:
            self.save_lora(folder, values)
            return
        partial, pipeline = folder.with_name(f".{folder.name}.partial"), self.pipeline
        shutil.rmtree(partial, ignore_errors=True)
        pipeline.save_config(partial)
        pipeline.transformer.save_pretrained(partial / "transformer", values)
        pipeline.vq_model.save_pretrained(partial / "vq_model")
        pipeline.tokenizer.save_pretrained(partial / "tokenizer")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    def enable_gradient_checkpointing(self) -> None:
        super().enable_gradient_checkpointing()
        self._recompute = True

    @torch.no_grad()
    def draw(
        self,
        prompts: PromptEmbeddings,
        negative: PromptEmbeddings,
        *,
        num_steps: int,
        guidance_scale: float,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """Codes (batch, tokens) of one picture for each prompt, as `MaskPredictSampling` draws them.

        Args:
            prompts: ids (batch).
            negative: those of the empty prompt (batch 1).
            num_steps: of the sampler.
            guidance_scale: Muse's g; 0 is off.
            generators: one a picture.

        Raises:
            ArithmeticError: the model's logits are not finite.
        """
        settings = SamplingSettings(num_steps=num_steps, guidance_scale=guidance_scale)
        with self._autocast():
            return MaskPredictSampling(self.transformer, prompts.tokens, negative.tokens, generators, settings).finish()

    def log_probs(
        self, prompts: PromptEmbeddings, codes: Tensor, masked: Tensor, *, whole_vocabulary: bool = False
    ) -> Tensor:
        """Log-probability of each hidden code, given the prompt and the codes that are not hidden.

        Args:
            prompts: ids (batch).
            codes: (batch, tokens) of whole pictures.
            masked: (batch, tokens) bool, which of them are hidden.
            whole_vocabulary: among all ids, as the published training has it, rather than among the image codes, from
                which the sampler draws.

        Returns:
            (batch, tokens) float32, 0 where nothing is hidden. With `whole_vocabulary` (batch, tokens + 2): also of
            soi and eoi, which the model sees.
        """
        vocabulary = self.transformer.vocabulary
        segments = image_segments(mask_images(codes, masked, vocabulary).ids, vocabulary)
        ids = torch.cat([prompts.tokens, segments], dim=1)
        attention = text_to_image_mask(ids, vocabulary)
        with self._autocast(), self._training():
            if not whole_vocabulary:
                logits = self.transformer.image_logits(ids, attention)
                return _log_probs(logits, codes).masked_fill(~masked, 0)
            logits = self.transformer(ids, attention)[:, prompts.tokens.shape[1] :]
        counted = F.pad(masked, (1, 1), value=True)
        labels = image_segments(codes + vocabulary.image_offset, vocabulary)
        return _log_probs(logits, labels).masked_fill(~counted, 0)

    def decode(self, clean: Tensor) -> list[NDArray[np.uint8]]:
        images: list[NDArray[np.uint8]] = self.pipeline.decode(clean, self._grid)
        return images

    def encode_images(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        wanted = (self._height, self._width, 3)
        for index, image in enumerate(images):
            if image.shape != wanted or image.dtype != np.uint8:
                raise ConfigError(f"images[{index}] is {image.dtype} {image.shape}; allowed: uint8 {wanted}")
        codes: Tensor = self.pipeline.encode_images(images)
        return codes

    def _encode(self, prompts: list[str], references: Sequence[Sequence[Image.Image]] | None) -> PromptEmbeddings:
        self._refuse_references(references)
        return PromptEmbeddings(self.pipeline.layout.prefixes(prompts).to(self.transformer.device))

    def _autocast(self) -> Any:
        dtype = self._autocast_dtype
        return torch.autocast(self.transformer.device.type, dtype, enabled=dtype is not None)

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Training mode where activations are to be computed again, which takes effect in it alone; no layer drops."""
        self.transformer.train(self._recompute and torch.is_grad_enabled())
        try:
            yield
        finally:
            self.transformer.eval()


def _log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """(batch, tokens, classes) float32 and (batch, tokens) -> (batch, tokens)."""
    return -F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
