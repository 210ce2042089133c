"""A pipeline opened up for training: what is trained of it, what it is trained on top of, and how that is saved.

How it draws is for the classes derived from it: rectified flow (`generators.trainable`) or masked tokens
(`generators.showo.trainable`). Rewards, the meaning of prompts, and losses are not known here.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from assay.errors import ConfigError
from generators import lora
from generators.embeddings import PromptEmbeddings
from generators.text_to_image import load_lora


class OpenedPipeline(ABC):
    """Nothing of the pipeline trains but what `add_lora` adds.

    Args:
        pipeline: the loaded pipeline; its transformer is what is trained.
        height: image height in pixels.
        width: image width in pixels.
        max_sequence_length: tokens per prompt.
        autocast_dtype: the transformer computes in it (its weights stay as they are); None for no autocast.
    """

    PIPELINE: ClassVar[Any]
    TEXT_ENCODERS: ClassVar[tuple[str, ...]]
    #: Ends of the names of the layers that get a LoRA unless told otherwise.
    LORA_TARGETS: ClassVar[tuple[str, ...]]
    #: Whether the transformer may lie in shards on several processes.
    can_be_sharded: ClassVar[bool]

    def __init__(
        self,
        pipeline: Any,
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
        weights_dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load a hub id or a local folder.

        Args:
            device: where to.
            encoder_dtype: of the text encoders, where there are any.
            weights_dtype: of the transformer; bfloat16 halves the memory. A LoRA's parameters are float32 all the same,
                and so is the VAE.
            (the others: see the class)

        Raises:
            ConfigError: it cannot be found or loaded, or the size does not fit.
        """
        pipeline = cls.load_pipeline(model, encoder_dtype, weights_dtype)
        if str(device) != "cpu":  # diffusers would warn of encoders in half precision, which may not stay there
            pipeline.to(device)
        return cls(
            pipeline,
            height=height,
            width=width,
            max_sequence_length=max_sequence_length,
            autocast_dtype=autocast_dtype,
        )

    @classmethod
    @abstractmethod
    def load_pipeline(
        cls, model: str, encoder_dtype: torch.dtype = torch.float32, weights_dtype: torch.dtype = torch.float32
    ) -> Any:
        """The pipeline alone, on the CPU."""

    @property
    def transformer(self) -> Any:
        return self.pipeline.transformer

    @property
    def result(self) -> str:
        """What `save_result` saves: "lora", or "model" for a whole one."""
        return "lora"

    def fuse_lora(self, path: str) -> None:
        """Merge a LoRA (a cold start) into the weights, so that the reference policy has it too.

        Args:
            path: folder with the LoRA's file, or one with such a folder `lora` in it; or a name on the hub.

        Raises:
            ConfigError: there is no LoRA, or it is that of another model.
        """
        load_lora(self.pipeline, self.PIPELINE.__name__, path)
        self.pipeline.fuse_lora()
        self.pipeline.unload_lora_weights()

    def add_lora(self, rank: int, alpha: int, targets: Sequence[str] | None = None) -> list[torch.nn.Parameter]:
        """Put a fresh LoRA on `targets` (None: `LORA_TARGETS`) and return its parameters, the only ones that train.

        Raises:
            ConfigError: a target names no linear layer.
        """
        return lora.add_lora(self.transformer, rank, alpha, self.LORA_TARGETS if targets is None else targets)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Inside, the transformer is the one before `add_lora`: the reference policy."""
        self.transformer.disable_adapters()
        try:
            yield
        finally:
            self.transformer.enable_adapters()

    def save_lora(self, folder: Path, values: Mapping[str, Tensor] | None = None) -> None:
        """Save in diffusers' format: `pipe.load_lora_weights(folder)` reads it. Replaces the folder as a whole.

        Args:
            values: of the LoRA's parameters by name; None for those in place.
        """
        lora.save_lora(self.PIPELINE, self.transformer, folder, values)

    def save_result(self, folder: Path, values: Mapping[str, Tensor] | None = None) -> None:
        """Save what was trained for use elsewhere; see `save_lora`."""
        self.save_lora(folder, values)

    def enable_gradient_checkpointing(self) -> None:
        """Compute activations again in the backward pass instead of keeping them: slower, with far less memory."""
        self.transformer.enable_gradient_checkpointing()

    def compile(self) -> None:
        """Compile the transformer in place; its names and parameters stay what they are."""
        self.transformer.compile()

    def drop_text_encoders(self) -> None:
        """Free the text encoders; `encode_prompts` is then an error."""
        for name in self.TEXT_ENCODERS:
            setattr(self.pipeline, name, None)

    @torch.no_grad()
    def encode_prompts(
        self, prompts: list[str], references: Sequence[Sequence[Image.Image]] | None = None
    ) -> PromptEmbeddings:
        """Embed texts, and the images that they speak of.

        Args:
            prompts: one for each row of the result.
            references: for each prompt its images, as many and of the same sizes for all; None for none.

        Raises:
            ConfigError: the model takes no references, or they do not fit; or the text encoders were dropped.
        """
        if not self._text_encoders():
            raise ConfigError("the text encoders were dropped; encode all prompts before")
        if references is not None and len(references) != len(prompts):
            raise ConfigError(f"{len(references)} lists of references for {len(prompts)} prompts; one each is needed")
        return self._encode(list(prompts), references if references and any(map(len, references)) else None)

    @abstractmethod
    def decode(self, clean: Tensor) -> list[NDArray[np.uint8]]:
        """Images of what the model draws: a list of (height, width, 3) uint8 RGB.

        Raises:
            ArithmeticError: pixels are not finite; such an image must not be scored.
        """

    @abstractmethod
    def encode_images(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """What the model would have to draw to give the images (height, width, 3) uint8 RGB: (batch, ...).

        Raises:
            ConfigError: an image has another size or type.
        """

    @property
    @abstractmethod
    def image_tokens(self) -> int:
        """Tokens that the transformer makes of one image."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of a prompt, as `encode_prompts` gives them, without references."""
        return self._max_sequence_length

    @abstractmethod
    def _encode(self, prompts: list[str], references: Sequence[Sequence[Image.Image]] | None) -> PromptEmbeddings: ...

    def _text_encoders(self) -> list[Any]:
        found = (getattr(self.pipeline, name, None) for name in self.TEXT_ENCODERS)
        return [encoder for encoder in found if encoder is not None]

    def _refuse_references(self, references: object) -> None:
        if references is not None:
            raise ConfigError(f"references were given, but a {self.PIPELINE.__name__} takes none")
