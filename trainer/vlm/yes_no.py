"""Held-out yes/no questions, asked as the verifier service asks them: by the same code, one forward pass over the text
before the answer, padded on the left, whose margin is `assay.vision_language.answers`'.

Later turns are asked with the labels of the turns before: of a verifier's, that is yes, as in the service.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from assay.answer_tokens import find_answer_tokens
from assay.errors import ConfigError
from assay.vision_language.answer_pass import forward_to_answer, read_answers
from assay.vision_language.answers import probability
from trainer.vlm.agreement import agreement, area_under_curve
from trainer.vlm.conversations import Conversation
from trainer.vlm.rendering import Renderer
from trainer.vlm.sharing import shared_out
from trainer.vlm.watching import Evaluation

LABELS = {"yes": True, "no": False}


@dataclass(frozen=True)
class Question:
    """What is asked, and what should be answered.

    Args:
        id: of the conversation.
        kind: of question, by which answers are counted.
        text: up to the answer.
        images: that are shown.
        is_yes: the label.
    """

    id: str
    kind: str
    text: str
    images: tuple[Path, ...]
    is_yes: bool


@dataclass(frozen=True)
class Answered:
    """A question with the model's answer."""

    question: Question
    margin: float

    @property
    def p(self) -> float:
        return probability(self.margin)


def questions_of(conversations: Sequence[Conversation], renderer: Renderer) -> list[Question]:
    """All questions.

    Raises:
        ConfigError: a label is neither yes nor no.
    """
    return [
        _question(conversation, answer, renderer)
        for conversation in conversations
        for answer in range(conversation.num_answers)
    ]


def _question(conversation: Conversation, answer: int, renderer: Renderer) -> Question:
    label = conversation.said[2 * answer + 1]
    if label not in LABELS:
        raise ConfigError(f"held_out: conversation {conversation.id!r} has the answer {label!r}; allowed: yes, no")
    return Question(
        conversation.id,
        conversation.kinds[answer],
        renderer.before_answer(conversation, answer),
        conversation.images_until(answer),
        LABELS[label],
    )


class YesNoQuestions:
    """Asks a model that is being trained all of them; see `trainer.vlm.watching.Judge`.

    Args:
        conversations: held out; may be none.
        processor: of the model.
        renderer: with that processor.
        batch_size: questions in a pass of a process.

    Raises:
        ConfigError: a label is neither yes nor no, or the tokenizer has no token for one of them.
    """

    def __init__(
        self, conversations: Sequence[Conversation], processor: Any, renderer: Renderer, batch_size: int
    ) -> None:
        self._questions = questions_of(conversations, renderer)
        self._renderer, self._batch_size = renderer, batch_size
        self._tokenizer = processor.tokenizer
        self._tokens = find_answer_tokens(self._tokenizer, "yes", "no", "any")

    @torch.no_grad()
    def evaluate(self, model: Any, accelerator: Accelerator) -> Evaluation | None:
        if not self._questions:
            return None

        def margins(questions: list[Question]) -> list[float]:
            return self._margins(model, questions, accelerator)

        found = shared_out(self._questions, margins, self._batch_size, accelerator)
        answers = [Answered(question, margin) for question, margin in zip(self._questions, found, strict=True)]
        return Evaluation(summarize(answers), [_line(answer) for answer in answers])

    def _margins(self, model: Any, questions: Sequence[Question], accelerator: Accelerator) -> list[float]:
        inputs = self._renderer.inputs(
            [question.text for question in questions], [question.images for question in questions], side="left"
        )
        outputs = forward_to_answer(model, dict(inputs.to(accelerator.device, model.dtype)))
        answers = read_answers(outputs.logits, self._tokens, self._tokenizer)
        return [answer.components["margin"] for answer in answers]


def summarize(answers: Sequence[Answered]) -> dict[str, dict[str, float | int | None]]:
    """By kind of question: how many there are, the share of yes among the labels, the share that agrees, and the area
    under the curve."""
    kinds = dict.fromkeys(answer.question.kind for answer in answers)
    return {kind: _numbers([answer for answer in answers if answer.question.kind == kind]) for kind in kinds}


def _numbers(answers: Sequence[Answered]) -> dict[str, float | int | None]:
    labels = [answer.question.is_yes for answer in answers]
    return {
        "questions": len(answers),
        "share_of_yes": sum(labels) / len(labels),
        "agreement": agreement([answer.p for answer in answers], labels),
        "auc": area_under_curve([answer.margin for answer in answers], labels),
    }


def _line(answer: Answered) -> dict[str, Any]:
    question = answer.question
    return {
        "id": question.id,
        "kind": question.kind,
        "images": [str(path) for path in question.images],
        "label": "yes" if question.is_yes else "no",
        "p": answer.p,
        "margin": answer.margin,
    }
