"""A model's own processor, as conversations go through it: services ask by it, and what they serve is trained by it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import AutoProcessor

from assay.serving.model_files import ModelLoadError


class ChatProcessor:
    """Makes text of messages, and a model's inputs of texts and images.

    Args:
        processor: of transformers, with a chat template.

    Raises:
        ModelLoadError: it has none.
    """

    def __init__(self, processor: Any) -> None:
        if not processor.chat_template:
            raise ModelLoadError(
                f"{type(processor).__name__} has no chat template; a service may name a file with one as "
                "backend.chat_template, for models that hold conversations (Florence-2, for one, does not)"
            )
        self.processor = processor
        self.tokenizer = processor.tokenizer
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token  # masked, so which token it is changes nothing

    def text(self, messages: list[dict[str, Any]], *, begins_answer: bool) -> str:
        """What was said, with a mark where each image goes; and, on request, what an answer follows upon."""
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=begins_answer, tokenize=False))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, each image being one."""
        return list(self.tokenizer(text, add_special_tokens=self._adds_special_tokens(text))["input_ids"])

    def inputs(self, texts: Sequence[str], images: Sequence[Sequence[Image.Image]], **further: Any) -> Any:
        """What the model's `forward` takes.

        Args:
            texts: of conversations.
            images: of each.
            further: options of the processor.
        """
        return self.processor(
            text=list(texts),
            images=[list(several) for several in images],
            padding=True,
            add_special_tokens=self._adds_special_tokens(texts[0]),
            return_tensors="pt",
            **further,
        )

    def _adds_special_tokens(self, text: str) -> bool:
        """A chat template may have written the token that begins a text, and it must not stand there twice."""
        return self.tokenizer.bos_token is None or not text.startswith(self.tokenizer.bos_token)


def load_processor(folder: Path) -> Any:
    """The processor in a model's folder.

    Raises:
        ModelLoadError: it cannot be loaded.
    """
    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, AttributeError) as problem:
        # Those that also take videos do not load without it, and not every class says so.
        said = " ".join(str(problem).split())
        raise ModelLoadError(f"{folder}: no usable processor (some need torchvision): {said}") from problem
