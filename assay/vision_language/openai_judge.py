"""A judge behind an OpenAI-compatible server: one token is asked for, and the log-probabilities at its place are read.

The token that is drawn is ignored. The server is asked once at the start: one that gives no log-probabilities cannot
be used, and is refused then.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from assay.background_loop import run_in_background
from assay.outcomes import Failed
from assay.vision_language.answers import Answer
from assay.vision_language.chat_server import ChatServer, image_parts
from assay.vision_language.completions import listed_tokens
from assay.vision_language.config import AnswersBlock
from assay.vision_language.http_questions import UnansweredError
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.judge import Answers
from assay.vision_language.top_logprobs import UnreadableAnswerError, answer_from_top


class OpenAiJudge:
    """Answers by chat completions.

    Args:
        server: where the model is.
        answers: the words.

    Raises:
        ConfigError: the server cannot be asked, or does not tell log-probabilities.
    """

    # The order of arithmetic in a server's batches is not ours to know.
    deterministic = False

    def __init__(self, server: ChatServer, answers: AnswersBlock) -> None:
        self._server = server
        self._words = answers
        # Where a server takes log-probabilities after temperature and top-p, these change nothing.
        self._request: dict[str, Any] = {
            "max_tokens": 1,
            "logprobs": True,
            "top_logprobs": server.block.top_logprobs,
            "temperature": 1.0,
            "top_p": 1.0,
        }
        self._try_out()

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        block = self._server.block
        return {
            **self._server.fingerprint_parts,
            "request": repr((block.top_logprobs, sorted(block.extra_body.items()))),
            "words": repr(self._words),
            "protocol": "top logprobs",
        }

    def special_text(self, text: str) -> str | None:
        return self._server.special_text(text)

    def ask(self, inquiries: Sequence[Inquiry]) -> list[Answers]:
        return run_in_background(self._ask_all(inquiries)).result()

    async def _ask_all(self, inquiries: Sequence[Inquiry]) -> list[Answers]:
        return await asyncio.gather(*(self._ask_one(inquiry) for inquiry in inquiries))

    async def _ask_one(self, inquiry: Inquiry) -> Answers:
        parts = image_parts(inquiry)
        turns = range(1, len(inquiry.turns) + 1)
        try:
            return tuple(await asyncio.gather(*(self._ask_turn(inquiry, parts, turn) for turn in turns)))
        except UnansweredError as error:
            return Failed(error.code, error.reason, str(error))
        except UnreadableAnswerError as error:
            return Failed("FAILED_PRECONDITION", error.reason, str(error))

    async def _ask_turn(self, inquiry: Inquiry, parts: list[dict[str, Any]], turn: int) -> Answer:
        completion = await self._server.ask(inquiry, parts, turn, **self._request)
        return answer_from_top(
            listed_tokens(completion), self._words.affirmative, self._words.negative, self._words.forms
        )

    def _try_out(self) -> None:
        completion = self._server.try_out(**self._request)
        try:
            listed = listed_tokens(completion)
        except UnansweredError as error:
            raise self._server.unusable(str(error), error.reason) from error
        if not listed:
            raise self._server.unusable(
                "the server gives no log-probabilities, and without them there is no score; "
                "allowed: one that answers `logprobs` and `top_logprobs`",
                "LOGPROBS_MISSING",
            )
