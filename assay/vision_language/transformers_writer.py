"""A model in this process that writes: greedy generation, in batches padded on the left.

No penalty is taken from the model's own configuration: one on repetition would keep it from writing a number that
stands in the question. Whether a model's class writes the same in batches of unequal length as alone is tried when the
writer is made; where it does not, inquiries go one by one, and the log says so.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assay.questions import IMAGE
from assay.serving.model_files import ModelLoadError
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.passes import passes
from assay.vision_language.transformers_judge import ERRORS_OF_A_CLASS, TOLERANCES
from assay.vision_language.vision_language_model import VisionLanguageModel
from assay.vision_language.writer import Written

logger = logging.getLogger("assay.vision_language")

_TRIED_TOKENS = 8
_GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": None,
    "top_k": None,
    "top_p": None,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}


class TransformersWriter:
    """Writes with a vision-language model.

    Args:
        vlm: the model.
        max_images_per_pass: bounds the memory of one pass.

    Raises:
        ModelLoadError: the model's class cannot write like this, or its logits are no numbers.
    """

    def __init__(self, vlm: VisionLanguageModel, *, max_images_per_pass: int = 16) -> None:
        self._vlm = vlm
        self.max_images_per_pass = max_images_per_pass
        ends = vlm.model.generation_config.eos_token_id
        tokenizer = vlm.tokenizer
        ends = ends if isinstance(ends, list) else [ends]
        # What frames a text; all other marks, such as those of places, are part of it.
        self._frame = {*ends, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
        self._try_out()

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        ends = repr(self._vlm.model.generation_config.eos_token_id)
        return {**self._vlm.fingerprint_parts, "ends": ends, "protocol": "greedy"}

    @property
    def deterministic(self) -> bool:
        return self._vlm.is_exact

    def special_text(self, text: str) -> str | None:
        return self._vlm.special_text(text)

    def input_size(self, image: NDArray[np.uint8]) -> tuple[int, int] | None:
        return self._vlm.input_size(image)

    def write(self, inquiries: Sequence[Inquiry], max_new_tokens: int) -> list[Written]:
        return [
            text
            for together in passes(inquiries, self.max_images_per_pass)
            for text in self._texts(self._generate(together, max_new_tokens).sequences)
        ]

    @torch.inference_mode()
    def _generate(self, inquiries: Sequence[Inquiry], max_new_tokens: int, **options: Any) -> Any:
        """What `generate` returns; of `sequences`, (batch, new tokens), what was asked is cut off."""
        inputs = self._vlm.inputs_of(inquiries, max(len(inquiry.turns) for inquiry in inquiries))
        pad = self._vlm.tokenizer.pad_token_id
        generated = self._vlm.model.generate(
            **inputs,
            **_GREEDY,
            **options,
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            return_dict_in_generate=True,
        )
        if not self._vlm.model.config.is_encoder_decoder:
            generated.sequences = generated.sequences[:, inputs["input_ids"].shape[1] :]
        return generated

    def _texts(self, sequences: torch.Tensor) -> list[str]:
        """Texts of (batch, tokens) ids."""
        return [
            self._vlm.tokenizer.decode(
                [token for token in row if token not in self._frame], clean_up_tokenization_spaces=False
            )
            for row in sequences.tolist()
        ]

    def _try_out(self) -> None:
        """Write about one image and about two, alone and together."""
        one, other, third = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
        inquiries = [
            Inquiry((one,), (f"{IMAGE} What is this?",)),
            Inquiry((other, third), (f"{IMAGE}{IMAGE} What is this, and what is that, and where is it?",)),
        ]
        try:
            alone = [self._generate([inquiry], _TRIED_TOKENS, output_logits=True) for inquiry in inquiries]
        except ERRORS_OF_A_CLASS as error:
            raise ModelLoadError(f"{self._class_name} does not write: {error}") from error
        if not all(bool(torch.isfinite(step).any()) and not bool(step.isnan().any()) for step in _logits(alone)):
            raise ModelLoadError(
                f"{self._class_name} writes from no numbers in {self._vlm.model.dtype}: its activations do not fit; "
                "allowed: another backend.dtype, e.g. bfloat16 or float32"
            )
        if not self._agrees(alone, inquiries):
            logger.warning("%s: batches change its texts; inquiries go one by one", self._class_name)
            self.max_images_per_pass = 1

    def _agrees(self, alone: list[Any], inquiries: Sequence[Inquiry]) -> bool:
        """Whether a batch writes the same, and for the same reasons: texts as short as these may agree by chance."""
        try:
            together = self._generate(inquiries, _TRIED_TOKENS, output_logits=True)
        except ERRORS_OF_A_CLASS as error:
            logger.warning("%s: %s", self._class_name, error)
            return False
        texts = [text for made in alone for text in self._texts(made.sequences)]
        first = torch.cat([made.logits[0] for made in alone])
        tolerance = TOLERANCES.get(self._vlm.model.dtype, 0.5)
        return texts == self._texts(together.sequences) and bool(
            torch.allclose(first, together.logits[0], rtol=0.0, atol=tolerance)
        )

    @property
    def _class_name(self) -> str:
        return type(self._vlm.model).__name__


def _logits(generated: Sequence[Any]) -> list[torch.Tensor]:
    """The (batch, vocabulary) logits of every step."""
    return [step for made in generated for step in made.logits]
