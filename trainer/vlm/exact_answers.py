"""Held-out answers of any words: would the model give them, word for word?

One forward pass over a conversation with its answers in it, as in training. An answer counts if at each of its tokens,
the mark that ends it included, the label is the likeliest token: that is what greedy decoding would write. Beside that
stands its mean cross-entropy in nats a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from trainer.vlm.collator import IGNORED, AnswerCollator
from trainer.vlm.conversations import Conversation
from trainer.vlm.rendering import Renderer
from trainer.vlm.sharing import shared_out
from trainer.vlm.watching import Evaluation

Numbers = dict[str, float | int | None]


@dataclass(frozen=True)
class Written:
    """One answer: whether the model would write it, and its cross-entropy in nats a token."""

    exact: bool
    cross_entropy: float


class ExactAnswers:
    """Asks a model that is being trained for all answers of held-out conversations; see `trainer.vlm.watching.Judge`.

    Args:
        conversations: held out; may be none.
        renderer: with the model's processor.
        batch_size: conversations in a pass of a process.
    """

    def __init__(self, conversations: Sequence[Conversation], renderer: Renderer, batch_size: int) -> None:
        self._conversations, self._batch_size = conversations, batch_size
        self._collator = AnswerCollator(conversations, renderer)

    @torch.no_grad()
    def evaluate(self, model: Any, accelerator: Accelerator) -> Evaluation | None:
        if not self._conversations:
            return None

        def read(numbers: list[int]) -> list[list[Written]]:
            return self._read(model, numbers, accelerator)

        found = shared_out(list(range(len(self._conversations))), read, self._batch_size, accelerator)
        by_kind: dict[str, list[Written]] = {}
        lines = []
        for conversation, answers in zip(self._conversations, found, strict=True):
            for kind, answer in zip(conversation.kinds, answers, strict=True):
                by_kind.setdefault(kind, []).append(answer)
                lines.append({"id": conversation.id, "kind": kind, **answer.__dict__})
        return Evaluation({kind: _numbers(answers) for kind, answers in by_kind.items()}, lines)

    def _read(self, model: Any, numbers: list[int], accelerator: Accelerator) -> list[list[Written]]:
        batch = self._collator([{"index": number} for number in numbers])
        labels: Tensor = batch.pop("labels")[:, 1:].to(accelerator.device)
        floats = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in batch.items()}
        inputs = {name: value.to(accelerator.device) for name, value in floats.items()}
        learnt = labels != IGNORED
        logits = model(**inputs).logits[:, :-1][learnt].float()  # of answers alone: images have thousands of tokens
        right, cross_entropy = torch.zeros_like(learnt), torch.zeros(labels.shape, device=labels.device)
        right[learnt] = logits.argmax(-1) == labels[learnt]
        cross_entropy[learnt] = F.cross_entropy(logits, labels[learnt], reduction="none")
        return [
            [
                Written(bool(right[row, tokens].all()), float(cross_entropy[row, tokens].mean()))
                for tokens in _runs(learnt[row])
            ]
            for row in range(len(numbers))
        ]


def _runs(learnt: Tensor) -> list[slice]:
    """Where a (length,) mask is true, run by run: an answer each."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], learnt.cpu().numpy().astype(np.int8), [0]])))
    return [slice(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _numbers(answers: Sequence[Written]) -> Numbers:
    return {
        "questions": len(answers),
        "agreement": float(np.mean([answer.exact for answer in answers])),
        "cross_entropy": float(np.mean([answer.cross_entropy for answer in answers])),
    }
