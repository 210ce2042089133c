"""A judge in this process: yes and no are read from the logits of one forward pass, nothing is generated.

Several turns about an image share its features and the keys and values of what the conversations have in common: only
what a later turn adds is computed for it. Whether a model's class stands that, and batches of conversations of unequal
length, is tried when the judge is made; where the numbers would differ, it goes the long way, and the log says so.
"""

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from assay.answer_tokens import AnswerTokens
from assay.questions import IMAGE
from assay.serving.model_files import ModelLoadError
from assay.vision_language.answer_pass import forward_to_answer, read_answers
from assay.vision_language.answers import Answer
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.judge import Answers
from assay.vision_language.passes import passes
from assay.vision_language.vision_language_model import VisionLanguageModel

logger = logging.getLogger("assay.vision_language")

# The margins that one image gets alone and in a batch may differ by this much; in half precision the order in which a
# kernel sums is worth more than that, and what is wrong with padding or positions is worth far more.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
ERRORS_OF_A_CLASS = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


class TransformersJudge:
    """Answers with a vision-language model.

    Args:
        vlm: the model.
        tokens: which of its tokens spell yes and no.
        max_images_per_pass: bounds the memory of one forward pass.

    Raises:
        ModelLoadError: the model's class cannot be asked like this, or what it answers is no number.
    """

    def __init__(self, vlm: VisionLanguageModel, tokens: AnswerTokens, *, max_images_per_pass: int = 16) -> None:
        self._vlm = vlm
        self._tokens = tokens
        self._max_images_per_pass = max_images_per_pass
        self.shares_prefix = True
        self._try_out()

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        return {**self._vlm.fingerprint_parts, "tokens": repr(self._tokens), "protocol": "logits"}

    @property
    def deterministic(self) -> bool:
        return self._vlm.is_exact

    def special_text(self, text: str) -> str | None:
        return self._vlm.special_text(text)

    def ask(self, inquiries: Sequence[Inquiry]) -> list[Answers]:
        return [
            answers
            for together in passes(inquiries, self._max_images_per_pass)
            for answers in self._ask_together(together, self.shares_prefix)
        ]

    @torch.inference_mode()
    def _ask_together(self, inquiries: Sequence[Inquiry], share: bool) -> list[tuple[Answer, ...]]:
        model, num_turns = self._vlm.model, len(inquiries[0].turns)
        inputs = self._vlm.inputs_of(inquiries, 1)
        outputs = forward_to_answer(model, inputs, use_cache=share and num_turns > 1)
        answers = [self._read(outputs.logits)]
        mask = inputs["attention_mask"]
        for turn in range(2, num_turns + 1):
            added = self._added(inquiries, turn) if share else None
            if added is None:
                share = False
                outputs = forward_to_answer(model, self._vlm.inputs_of(inquiries, turn), use_cache=False)
            else:
                mask = torch.cat([mask, added["attention_mask"]], dim=1)
                further = {"input_ids": added["input_ids"], "attention_mask": mask}
                outputs = forward_to_answer(model, further, use_cache=True, past_key_values=outputs.past_key_values)
            answers.append(self._read(outputs.logits))
        return list(zip(*answers, strict=True))

    def _added(self, inquiries: Sequence[Inquiry], turn: int) -> dict[str, Tensor] | None:
        """(batch, length) tokens that a turn adds to the conversations before it, padded on the left.

        None if the tokens of one conversation do not begin with those of the one before: templates may drop parts of
        earlier turns, and tokens may grow over the seam.
        """
        added = []
        for inquiry in inquiries:
            before, now = (self._vlm.tokenize(self._vlm.conversation(inquiry, n)) for n in (turn - 1, turn))
            if now[: len(before)] != before:
                return None
            added.append(now[len(before) :])
        padded = self._vlm.tokenizer.pad({"input_ids": added}, padding=True, return_tensors="pt")
        return dict(padded.to(self._vlm.model.device))

    def _read(self, logits: Tensor) -> list[Answer]:
        return read_answers(logits, self._tokens, self._vlm.tokenizer)

    def _try_out(self) -> None:
        """Compare the short ways with the long one, on two images and conversations of unequal length."""
        pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
        turns = [(f"{IMAGE} yes or no?", "no?"), (f"{IMAGE} yes or no, yes or no, or yes?", "yes or no?")]
        inquiries = [Inquiry((image,), both) for image, both in zip(pixels, turns, strict=True)]
        try:
            slow = [self._ask_together([inquiry], share=False)[0] for inquiry in inquiries]
        except ERRORS_OF_A_CLASS as error:
            raise ModelLoadError(f"{self._class_name} does not answer in one forward pass: {error}") from error
        if not all(math.isfinite(answer.components["margin"]) for answers in slow for answer in answers):
            raise ModelLoadError(
                f"{self._class_name} answers with no numbers in {self._vlm.model.dtype}: its activations do not fit; "
                "allowed: another backend.dtype, e.g. bfloat16 or float32"
            )
        if not self._agrees(slow, inquiries, share=False):
            logger.warning("%s: batches change its answers; images are judged one by one", self._class_name)
            self._max_images_per_pass = 1
            inquiries, slow = inquiries[:1], slow[:1]
        if not self._agrees(slow, inquiries, share=True):
            logger.warning("%s: cannot go on from its cache; every turn is computed anew", self._class_name)
            self.shares_prefix = False

    def _agrees(self, slow: list[tuple[Answer, ...]], inquiries: Sequence[Inquiry], share: bool) -> bool:
        try:
            fast = self._ask_together(inquiries, share)
        except ERRORS_OF_A_CLASS as error:
            logger.warning("%s: %s", self._class_name, error)
            return False
        tolerance = TOLERANCES.get(self._vlm.model.dtype, 0.5)
        # No comparison holds with nan: a batch that gives it does not agree.
        return all(
            abs(a.components["margin"] - b.components["margin"]) <= tolerance
            for one, other in zip(slow, fast, strict=True)
            for a, b in zip(one, other, strict=True)
        )

    @property
    def _class_name(self) -> str:
        return type(self._vlm.model).__name__
