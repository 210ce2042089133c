"""A model behind an OpenAI-compatible server, as judge and writer ask it: one chat completion a question.

Images travel as PNG in data URLs, so the pixels judged are the pixels generated. What runs there can change; an answer
that says it comes from another model than the first one did is a failure.
"""

import base64
import os
from typing import Any

import numpy as np

from assay.background_loop import run_in_background
from assay.errors import ConfigError
from assay.images import RgbArray, encode
from assay.questions import IMAGE
from assay.vision_language.config import OpenAiBlock
from assay.vision_language.http_questions import HttpQuestions, UnansweredError
from assay.vision_language.inquiry import Inquiry

# Servers differ in which of these they read as marks in a message's text; none belongs in a prompt.
_MARKS = ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|endoftext|>")


class ChatServer:
    """The `/chat/completions` of a server.

    Args:
        block: server and model.
        affirmation: what the model is taken to have said in turns before the last.

    Raises:
        ConfigError: there is no key where the block says that one is.
    """

    def __init__(self, block: OpenAiBlock, affirmation: str) -> None:
        self.block = block
        self._affirmation = affirmation
        self._served: tuple[str, str] | None = None
        self._questions = run_in_background(self._connect()).result()

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        return {"model": self.block.model, "weights": self.block.weights, "served": repr(self._served)}

    def special_text(self, text: str) -> str | None:
        """The first mark of a chat template that stands in a text; None if none does."""
        return next((mark for mark in _MARKS if mark in text), None)

    async def ask(
        self, inquiry: Inquiry, image_parts: list[dict[str, Any]], num_turns: int, max_tokens: int, **request: Any
    ) -> dict[str, Any]:
        """The completion of a conversation up to the answer to turn `num_turns`.

        Args:
            image_parts: see `image_parts`; encoded once for all turns.
            max_tokens: the most the answer may have.
            request: further fields.

        Raises:
            UnansweredError: there is none, or it is of another model than the first.
        """
        messages = inquiry.messages(image_parts, self._affirmation, num_turns)
        body = {
            "model": self.block.model,
            "messages": [{**message, "content": _plain(message["content"])} for message in messages],
            self.block.max_tokens_field: max_tokens,
            **request,
            **self.block.extra_body,
        }
        completion = await self._questions.ask(body)
        # Model and system fingerprint, as far as a server tells them.
        served = (str(completion.get("model")), str(completion.get("system_fingerprint")))
        if self._served is None:
            self._served = served
        if served != self._served:
            raise UnansweredError(
                "FAILED_PRECONDITION",
                "JUDGE_CHANGED",
                f"the answer is of {served}, at the start it was {self._served}; restart the service",
            )
        return completion

    def try_out(self, max_tokens: int, **request: Any) -> dict[str, Any]:
        """The completion of a question about a grey image.

        Raises:
            ConfigError: there is none.
        """
        image = np.full((64, 64, 3), 128, np.uint8)
        inquiry = Inquiry((image,), (f"{IMAGE} Is this image grey? Answer yes or no.",))
        try:
            return run_in_background(self.ask(inquiry, image_parts(inquiry), 1, max_tokens, **request)).result()
        except UnansweredError as error:
            raise self.unusable(str(error), error.reason) from error

    def unusable(self, problem: str, reason: str) -> ConfigError:
        """What is wrong with the server, naming it."""
        where = f"backend.base_url = {self.block.base_url!r}, backend.model = {self.block.model!r}"
        return ConfigError(f"{where}: {problem}", reason=reason)

    async def _connect(self) -> HttpQuestions:
        block = self.block
        return HttpQuestions(
            f"{block.base_url.rstrip('/')}/chat/completions",
            _api_key(block),
            deadline_s=block.deadline_s,
            max_attempts=block.max_attempts,
            max_concurrency=block.max_concurrency,
        )


def image_parts(inquiry: Inquiry) -> list[dict[str, Any]]:
    """An inquiry's images, as a message's content holds them."""
    return [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png(one)}"}} for one in inquiry.images]


def png(image: RgbArray) -> str:
    """An image file in base64, without loss."""
    return base64.b64encode(encode(image, "PNG")).decode()


def _plain(content: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Text alone as a string: not every server takes it in parts."""
    return content[0]["text"] if [part["type"] for part in content] == ["text"] else content


def _api_key(block: OpenAiBlock) -> str | None:
    if block.api_key_file is not None:
        try:
            key = block.api_key_file.read_text().strip()
        except OSError as error:
            raise ConfigError(f"backend.api_key_file = {str(block.api_key_file)!r}: {error.strerror}") from error
        where = f"backend.api_key_file = {str(block.api_key_file)!r}"
    elif block.api_key_env is not None:
        key, where = os.environ.get(block.api_key_env, ""), f"backend.api_key_env = {block.api_key_env!r}"
    else:
        return None
    if not key:
        raise ConfigError(f"{where} holds no key", reason="API_KEY_EMPTY")
    return key
