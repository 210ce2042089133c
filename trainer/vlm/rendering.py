"""A conversation as its model reads it: the text of the chat template, its pictures, and where its answers stand.

The text before an answer is to the byte what the verifier service gives to the model when it asks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.errors import ConfigError
from assay.vision_language.chat_processor import ChatProcessor
from trainer.vlm.conversations import Conversation, open_picture

Span = tuple[int, int]


class Renderer:
    """Renders with a model's own processor.

    Args:
        processor: with a chat template.

    Raises:
        ModelLoadError: it has none.
    """

    def __init__(self, processor: Any) -> None:
        self._chat = ChatProcessor(processor)

    def before_answer(self, conversation: Conversation, answer: int) -> str:
        """The text up to an answer, counted from 0: what the model is asked with."""
        return self._chat.text(conversation.messages(2 * answer + 1), begins_answer=True)

    def with_answers(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """The whole text, and of each answer, with the mark that ends it, the characters [start, end).

        Raises:
            ConfigError: the chat template rewrites what was said earlier, so that no one text has all answers in it.
        """
        whole = self._chat.text(conversation.messages(), begins_answer=False)
        spans = []
        for answer in range(conversation.num_answers):
            before = self.before_answer(conversation, answer)
            through = self._chat.text(conversation.messages(2 * answer + 2), begins_answer=False)
            if not (whole.startswith(through) and through.startswith(before)):
                raise ConfigError(
                    f"the model's chat template does not leave earlier turns as they were (conversation "
                    f"{conversation.id!r}, answer {answer}); allowed: conversations of one turn, or another template"
                )
            spans.append((len(before), len(through)))
        return whole, spans

    def inputs(self, texts: Sequence[str], images: Sequence[Sequence[Path]], *, side: str, **further: Any) -> Any:
        """What the model's `forward` takes, and whatever else was asked of the processor.

        Args:
            texts: of conversations.
            images: of each.
            side: on which it is padded.
            further: options of the processor.
        """
        opened = [[open_picture(path) for path in paths] for paths in images]
        return self._chat.inputs(texts, opened, padding_side=side, **further)
