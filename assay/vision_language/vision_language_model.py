"""A vision-language model of transformers, whole: loaded completely or not at all, and fed as its processor says.

Batches are padded on the left, so that every answer begins at the last place; a model pads on the right unless told so,
and then answers after padding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from assay.serving.model_files import ModelLoadError, digest_model, load_complete, locate_model
from assay.vision_language.chat_processor import ChatProcessor, load_processor
from assay.vision_language.inquiry import Inquiry

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_IMAGE_PART = {"type": "image"}


class VisionLanguageModel:
    """A model with its processor.

    Args:
        model: in evaluation mode, on its device.
        processor: of the model; must have a chat template.
        affirmation: what the model is taken to have said in turns before the last.
        fingerprint_parts: of the files that both came from.
    """

    def __init__(self, model: Any, processor: Any, affirmation: str, fingerprint_parts: dict[str, str]) -> None:
        self._chat = ChatProcessor(processor)
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.fingerprint_parts = {**fingerprint_parts, "chat_template": processor.chat_template}
        self._affirmation = affirmation
        self.tokenizer.padding_side = "left"

    @classmethod
    def load(
        cls,
        name: str,
        *,
        affirmation: str,
        revision: str | None = None,
        adapter: str | None = None,
        chat_template: Path | None = None,
        device: str = "auto",
        dtype: str = "float32",
        attention: str | None = None,
        allow_unexpected: Sequence[str] = (),
    ) -> "VisionLanguageModel":
        """Load from a folder, or from the hub.

        Args:
            name, revision: see `assay.serving.model_files.locate_model`.
            adapter: folder of a LoRA in peft's format, put on the model and not merged into it: merging rounds to the
                weights' precision.
            chat_template: file to take in place of the model's own.
            device, attention, allow_unexpected: see `assay.serving.model_files.load_complete`.
            dtype: key of `DTYPES`.

        Raises:
            ModelLoadError: something cannot be found, or not be loaded completely.
        """
        folder = locate_model(name, revision)
        model = load_complete(
            AutoModelForImageTextToText, folder, device, allow_unexpected, dtype=DTYPES[dtype], attention=attention
        )
        parts = {
            "model": digest_model(folder),
            "adapter": "none",
            "dtype": dtype,
            "attention": str(model.config._attn_implementation),
        }
        if adapter is not None:
            adapter_folder = locate_model(adapter)
            model = _with_adapter(model, adapter_folder)
            parts["adapter"] = digest_model(adapter_folder)
        processor = load_processor(folder)
        if chat_template is not None:
            processor.chat_template = _read(chat_template)
        return cls(model, processor, affirmation, parts)

    @property
    def is_exact(self) -> bool:
        """Whether arithmetic is fine enough for batches not to matter: in half precision the order of a kernel's sums
        does, and with it what else is in the batch."""
        return bool(self.model.dtype == torch.float32)

    def conversation(self, inquiry: Inquiry, num_turns: int) -> str:
        """The text up to the answer to turn `num_turns`, with a mark where each image goes."""
        messages = inquiry.messages([_IMAGE_PART] * len(inquiry.images), self._affirmation, num_turns)
        return self._chat.text(messages, begins_answer=True)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a conversation, each image being one."""
        return self._chat.tokenize(text)

    def inputs_of(self, inquiries: Sequence[Inquiry], num_turns: int) -> dict[str, torch.Tensor]:
        """What the model's `forward` takes for the conversations up to the answer to turn `num_turns`."""
        texts = [self.conversation(inquiry, num_turns) for inquiry in inquiries]
        return self.inputs(texts, [inquiry.images for inquiry in inquiries])

    def inputs(self, texts: Sequence[str], images: Sequence[Sequence[NDArray[Any]]]) -> dict[str, torch.Tensor]:
        """What the model's `forward` takes for conversations about some images each, padded on the left."""
        batch = self._chat.inputs(texts, [[Image.fromarray(image) for image in several] for several in images])
        return dict(batch.to(self.model.device, self.model.dtype))

    def special_text(self, text: str) -> str | None:
        """The first special token of the tokenizer that stands in a text; None if none does."""
        return next((token for token in self.tokenizer.all_special_tokens if token in text), None)

    def input_size(self, image: NDArray[Any]) -> tuple[int, int] | None:
        """(width, height) in pixels to which the processor scales an image before it is cut into patches; None where
        the processor does not tell, for it tells the grid of patches or nothing."""
        made = self.processor.image_processor(images=[Image.fromarray(image)], return_tensors="pt")
        if "image_grid_thw" not in made:
            return None
        _, rows, columns = made["image_grid_thw"][0].tolist()
        patch = self.processor.image_processor.patch_size
        return columns * patch, rows * patch


def _with_adapter(model: Any, folder: Path) -> Any:
    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_file(folder / "adapter_model.safetensors")
        adapted = PeftModel.from_pretrained(model, str(folder), config=config)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as problem:
        raise ModelLoadError(f"{folder}: no adapter that goes on {type(model).__name__}: {problem}") from problem
    # peft warns of weights that are missing, and leaves them as they were made.
    wanted = set(get_peft_model_state_dict(adapted))
    if faults := sorted(wanted ^ set(weights)):
        raise ModelLoadError(
            f"{folder}: {len(faults)} weights do not fit {type(model).__name__} ({', '.join(faults[:3])})"
        )
    return adapted.eval().requires_grad_(False)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise ModelLoadError(f"backend.chat_template = {str(path)!r} cannot be read: {problem}") from problem
