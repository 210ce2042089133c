"""The published verifiers' protocol, defects included: the answer is drawn, and a confidence is read beside it.

Facts of the reference, reproduced here one image at a time:

- The first token is sampled from the distribution after the warpers of the model's own generation configuration
  (temperature, top-k, top-p), and confidences are of that distribution, too: with top-p 0.8 a yes of 0.8 or more
  becomes 1, and of several candidates at 1 the first wins. They are not renormalised over yes and no.
- An answer is valid if the token, in lower case, is exactly the word; the confidence is of the word in lower case.
- An answer that is not valid is a number all the same (see `readings.py`). Not so quietly here: its component `valid`
  is 0, and the first, the tenth, the hundredth such answer is logged.
- The follow-up question is asked unless the first answer was no, whatever else it was.

Only the first token decides, so only one is generated where the reference goes on to a hundred.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from assay.errors import ConfigError
from assay.vision_language.answers import Answer
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.judge import Answers
from assay.vision_language.vision_language_model import VisionLanguageModel

logger = logging.getLogger("services.verifier")


class SampledJudge:
    """Answers with a vision-language model by sampling. `Answer.p` is the confidence in yes.

    Args:
        vlm: the model.
        yes, no: the words; each must be a token of the vocabulary as written.
        temperature: of sampling; the reference has 1.0.
        max_new_tokens: how many tokens are generated. More than 1 changes no answer; for measuring.
    """

    deterministic = False

    def __init__(
        self, vlm: VisionLanguageModel, yes: str, no: str, *, temperature: float = 1.0, max_new_tokens: int = 1
    ) -> None:
        self._vlm = vlm
        self._num_answers = self._num_invalid = 0
        self._next_told = 1
        self._words = (yes, no)
        vocabulary = vlm.tokenizer.get_vocab()
        for field, word in (("answers.affirmative", yes), ("answers.negative", no)):
            if word not in vocabulary:
                raise ConfigError(
                    f"{field} = {word!r} is no token of the model, in the form that protocol: sampled looks for",
                    reason="ANSWER_NOT_A_TOKEN",
                )
        self._yes_id, self._no_id = vocabulary[yes], vocabulary[no]
        # The reference passes embeddings, so that no penalty sees the question's own yes and no.
        self._sampling: dict[str, Any] = {
            "do_sample": True,
            "temperature": temperature,
            "repetition_penalty": 1.0,
            "max_new_tokens": max_new_tokens,
            "pad_token_id": vlm.tokenizer.pad_token_id,
        }

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        words = ", ".join(self._words)
        return {**self._vlm.fingerprint_parts, "words": words, "protocol": f"sampled {self._sampling['temperature']}"}

    def special_text(self, text: str) -> str | None:
        return self._vlm.special_text(text)

    def ask(self, inquiries: Sequence[Inquiry]) -> list[Answers]:
        return [self._ask_one(inquiry) for inquiry in inquiries]

    def _ask_one(self, inquiry: Inquiry) -> tuple[Answer, ...]:
        answers: list[Answer] = []
        for turn in range(1, len(inquiry.turns) + 1):
            answers.append(self._sample(inquiry, turn))
            if answers[-1].word == self._words[1]:
                break
        return tuple(answers)

    @torch.inference_mode()
    def _sample(self, inquiry: Inquiry, num_turns: int) -> Answer:
        inputs = self._vlm.inputs_of([inquiry], num_turns)
        generated = self._vlm.model.generate(
            **inputs, **self._sampling, output_scores=True, return_dict_in_generate=True
        )
        probabilities = torch.softmax(generated.scores[0][0].float(), dim=-1)
        token = int(generated.sequences[0, inputs["input_ids"].shape[1]])
        word = str(self._vlm.tokenizer.convert_ids_to_tokens(token)).lower()
        p_yes, p_no = float(probabilities[self._yes_id]), float(probabilities[self._no_id])
        said_yes, said_no = (float(word == one) for one in self._words)
        valid = said_yes + said_no
        self._count(word, is_valid=bool(valid))
        components = {"p_yes": p_yes, "p_no": p_no, "said_yes": said_yes, "said_no": said_no, "valid": valid}
        return Answer(p_yes, word, components)

    def _count(self, word: str, *, is_valid: bool) -> None:
        self._num_answers += 1
        if is_valid:
            return
        self._num_invalid += 1
        if self._num_invalid == self._next_told:
            self._next_told *= 10
            logger.warning(
                "the answer %r is neither %r nor %r, and is a number as the published protocol has it; "
                "%d of %d answers so far",
                word,
                *self._words,
                self._num_invalid,
                self._num_answers,
            )
