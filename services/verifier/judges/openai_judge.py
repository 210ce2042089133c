"""A judge behind an OpenAI-compatible server: one token is asked for, and the log-probabilities at its place are read.

The token that is drawn is ignored. Images travel as PNG in data URLs, so the pixels judged are the pixels generated.
The server is asked once at the start: one that gives no log-probabilities cannot be used, and is refused then. What
runs there can change; an answer that says it comes from another model than the first one did is a failure.
"""

import asyncio
import base64
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from assay.background_loop import run_in_background
from assay.errors import ConfigError
from assay.images import encode
from assay.outcomes import Failed
from assay.questions import IMAGE
from services.verifier.answers import Answer
from services.verifier.config import AnswersBlock, OpenAiBlock
from services.verifier.inquiry import Inquiry
from services.verifier.judges.completions import CompletionError, Completions, listed_tokens
from services.verifier.judges.judge import Answers
from services.verifier.judges.top_logprobs import UnreadableAnswerError, answer_from_top

# Servers differ in which of these they read as marks in a message's text; none belongs in a prompt.
_MARKS = ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|endoftext|>")


class OpenAiJudge:
    """Answers by chat completions.

    Args:
        block: server and model.
        answers: the words.

    Raises:
        ConfigError: the server cannot be asked, or does not tell log-probabilities.
    """

    # The order of arithmetic in a server's batches is not ours to know.
    deterministic = False

    def __init__(self, block: OpenAiBlock, answers: AnswersBlock) -> None:
        self._block = block
        self._words = answers
        self._completions = run_in_background(self._connect()).result()
        self._served = self._try_out()

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        block = self._block
        return {
            "model": block.model,
            "weights": block.weights,
            "served": repr(self._served),
            "request": repr((block.top_logprobs, sorted(block.extra_body.items()))),
            "words": repr(self._words),
            "protocol": "top logprobs",
        }

    def special_text(self, text: str) -> str | None:
        return next((mark for mark in _MARKS if mark in text), None)

    def ask(self, inquiries: Sequence[Inquiry]) -> list[Answers]:
        return run_in_background(self._ask_all(inquiries)).result()

    async def _connect(self) -> Completions:
        block = self._block
        return Completions(
            block.base_url,
            _api_key(block),
            deadline_s=block.deadline_s,
            max_attempts=block.max_attempts,
            max_concurrency=block.max_concurrency,
        )

    async def _ask_all(self, inquiries: Sequence[Inquiry]) -> list[Answers]:
        return await asyncio.gather(*(self._ask_one(inquiry) for inquiry in inquiries))

    async def _ask_one(self, inquiry: Inquiry) -> Answers:
        image = _image_part(inquiry)
        turns = range(1, len(inquiry.turns) + 1)
        try:
            return tuple(await asyncio.gather(*(self._ask_turn(inquiry, image, turn) for turn in turns)))
        except CompletionError as error:
            return Failed(error.code, error.reason, str(error))
        except UnreadableAnswerError as error:
            return Failed("FAILED_PRECONDITION", error.reason, str(error))

    async def _ask_turn(self, inquiry: Inquiry, image: dict[str, Any], turn: int) -> Answer:
        completion = await self._completions.ask(self._body(inquiry, image, turn))
        if _served(completion) != self._served:
            raise CompletionError(
                "FAILED_PRECONDITION",
                "JUDGE_CHANGED",
                f"the answer is of {_served(completion)}, at the start it was {self._served}; restart the service",
            )
        return answer_from_top(
            listed_tokens(completion), self._words.affirmative, self._words.negative, self._words.forms
        )

    def _body(self, inquiry: Inquiry, image: dict[str, Any], turn: int) -> dict[str, Any]:
        messages = inquiry.messages(image, self._words.affirmative, turn)
        return {
            "model": self._block.model,
            "messages": [{**message, "content": _plain(message["content"])} for message in messages],
            self._block.max_tokens_field: 1,
            "logprobs": True,
            "top_logprobs": self._block.top_logprobs,
            # Where a server takes log-probabilities after these, they change nothing.
            "temperature": 1.0,
            "top_p": 1.0,
            **self._block.extra_body,
        }

    def _try_out(self) -> tuple[str, str]:
        """Ask about a grey image; what the server says of itself."""
        inquiry = Inquiry(np.full((64, 64, 3), 128, np.uint8), (f"{IMAGE} Is this image grey? Answer yes or no.",))
        where = f"backend.base_url = {self._block.base_url!r}, backend.model = {self._block.model!r}"
        try:
            completion = run_in_background(self._completions.ask(self._body(inquiry, _image_part(inquiry), 1))).result()
            listed = listed_tokens(completion)
        except CompletionError as error:
            raise ConfigError(f"{where}: {error}", reason=error.reason) from error
        if not listed:
            raise ConfigError(
                f"{where}: the server gives no log-probabilities, and without them there is no score; "
                "allowed: one that answers `logprobs` and `top_logprobs`",
                reason="LOGPROBS_MISSING",
            )
        return _served(completion)


def _served(completion: dict[str, Any]) -> tuple[str, str]:
    """Model and system fingerprint, as far as a server tells them."""
    return str(completion.get("model")), str(completion.get("system_fingerprint"))


def _image_part(inquiry: Inquiry) -> dict[str, Any]:
    data = base64.b64encode(encode(inquiry.image, "PNG")).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


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
