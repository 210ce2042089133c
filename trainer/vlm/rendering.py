"""A conversation as its model reads it: the text of the chat template, its pictures, and where its answers stand.

The text before an answer is to the byte what the verifier service gives to the model when it asks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.errors import ConfigError
from trainer.vlm.conversations import Conversation, open_picture

Span = tuple[int, int]


class Renderer:
    """Renders with a model's own processor.

    Args:
        processor: with a chat template.

    Raises:
        ConfigError: it has none.
    """

    def __init__(self, processor: Any) -> None:
        if not processor.chat_template:
            raise ConfigError("the model's processor has no chat template, so nothing can be said to it")
        self._processor = processor
        if (tokenizer := processor.tokenizer).pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # masked, so which token it is changes nothing

    def before_answer(self, conversation: Conversation, answer: int) -> str:
        """The text up to an answer, counted from 0: what the model is asked with."""
        return self._text(conversation.messages(2 * answer + 1), begins_answer=True)

    def with_answers(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """The whole text, and of each answer, with the mark that ends it, the characters [start, end).

        Raises:
            ConfigError: the chat template rewrites what was said earlier, so that no one text has all answers in it.
        """
        whole = self._text(conversation.messages(), begins_answer=False)
        spans = []
        for answer in range(conversation.num_answers):
            before = self.before_answer(conversation, answer)
            through = self._text(conversation.messages(2 * answer + 2), begins_answer=False)
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
        bos = self._processor.tokenizer.bos_token
        return self._processor(
            text=list(texts),
            images=[[open_picture(path) for path in paths] for paths in images],
            padding=True,
            padding_side=side,
            # A chat template may have written the token that begins a text, and it must not stand there twice.
            add_special_tokens=bos is None or not texts[0].startswith(bos),
            return_tensors="pt",
            **further,
        )

    def _text(self, messages: list[dict[str, Any]], *, begins_answer: bool) -> str:
        return str(self._processor.apply_chat_template(messages, add_generation_prompt=begins_answer, tokenize=False))
