"""Batches of conversations of which only the answers are learnt: their words, and the marks that end them."""

import bisect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from assay.errors import ConfigError
from trainer.vlm.conversations import Conversation
from trainer.vlm.rendering import Renderer, Span

IGNORED = -100


class AnswerCollator:
    """Makes a batch of rows {"index"} of a list of conversations.

    Args:
        conversations: all of them.
        renderer: with the model's processor.
    """

    def __init__(self, conversations: Sequence[Conversation], renderer: Renderer) -> None:
        self._conversations = conversations
        self._renderer = renderer

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Inputs padded on the right, and `labels` (batch, length), -100 wherever no answer stands.

        Raises:
            ConfigError: a picture cannot be read, or an answer does not begin with a token of its own.
        """
        chosen = [self._conversations[row["index"]] for row in rows]
        rendered = [self._renderer.with_answers(conversation) for conversation in chosen]
        batch = dict(
            self._renderer.inputs(
                [text for text, _ in rendered],
                [conversation.images for conversation in chosen],
                side="right",
                return_offsets_mapping=True,
                return_text_replacement_offsets=True,
            )
        )
        offsets = batch.pop("offset_mapping").tolist()
        replaced = batch.pop("text_replacement_offsets")
        is_answer = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        for row, (conversation, (_, spans)) in enumerate(zip(chosen, rendered, strict=True)):
            for span in spans:
                start, end = moved(span, replaced[row])
                tokens = [n for n, (first, last) in enumerate(offsets[row]) if first < end and last > start]
                if not tokens or offsets[row][tokens[0]][0] != start:
                    raise ConfigError(
                        f"conversation {conversation.id!r}: an answer does not begin with a token of its own, so that "
                        "nobody could ask for it"
                    )
                is_answer[row, tokens] = True
        return {**batch, "labels": batch["input_ids"].masked_fill(~is_answer, IGNORED)}


def moved(span: Span, replaced: Sequence[dict[str, Any]]) -> Span:
    """Where characters stand after the processor has put many marks in the place of each image's one.

    Args:
        span: [start, end) before.
        replaced: of each image, `span` before and `new_span` after, in order.
    """
    ends = [one["span"][1] for one in replaced]
    gained = [0, *(one["new_span"][1] - one["span"][1] for one in replaced)]
    start, end = (place + gained[bisect.bisect_right(ends, place)] for place in span)
    return start, end
