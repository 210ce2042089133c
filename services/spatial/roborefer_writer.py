"""A model behind RoboRefer's own HTTP API: `POST /query` with images in base64 and a text, answered by a text.

The server is asked once at the start, and refused then if it does not answer. It is asked without depth. Its answer is
read as text and, unlike in the sample client, never evaluated.
"""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from assay.background_loop import run_in_background
from assay.errors import ConfigError
from assay.outcomes import Failed
from assay.questions import IMAGE
from assay.vision_language.chat_server import png
from assay.vision_language.http_questions import HttpQuestions, UnansweredError, sendable
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.writer import Written
from services.spatial.config import RoboReferBlock


class RoboReferWriter:
    """Writes by `POST /query`.

    Args:
        block: where the server is.

    Raises:
        ConfigError: the server cannot be asked.
    """

    # What runs there and how, the server does not tell.
    deterministic = False

    def __init__(self, block: RoboReferBlock) -> None:
        self._block = block
        self._questions = run_in_background(self._connect()).result()
        grey = Inquiry((np.full((64, 64, 3), 128, np.uint8),), (f"{IMAGE} Point at the middle of this image.",))
        tried = self.write([grey], 1)[0]
        if isinstance(tried, Failed):
            raise ConfigError(f"backend.base_url = {block.base_url!r}: {tried.message}", reason=tried.reason)

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        return {"weights": self._block.weights, "protocol": "roborefer"}

    def special_text(self, text: str) -> str | None:
        """None: the API takes text apart from images."""
        return None

    def input_size(self, image: NDArray[np.uint8]) -> tuple[int, int] | None:
        """None: the server does not tell."""
        return None

    def write(self, inquiries: Sequence[Inquiry], max_new_tokens: int) -> list[Written]:
        """Ask; how much is written is for the server to say."""
        return run_in_background(self._write_all(inquiries)).result()

    async def _connect(self) -> HttpQuestions:
        block = self._block
        return HttpQuestions(
            f"{block.base_url.rstrip('/')}/query",
            None,
            deadline_s=block.deadline_s,
            max_attempts=block.max_attempts,
            max_concurrency=block.max_concurrency,
        )

    async def _write_all(self, inquiries: Sequence[Inquiry]) -> list[Written]:
        return await asyncio.gather(*(self._write_one(inquiry) for inquiry in inquiries))

    async def _write_one(self, inquiry: Inquiry) -> Written:
        body = {
            "image_url": [png(image) for image in inquiry.images],
            "depth_url": [],
            "enable_depth": 0,
            # The server puts the marks of images itself.
            "text": inquiry.turns[-1].replace(IMAGE, "").strip(),
        }
        try:
            answer = await self._questions.ask(body)
        except UnansweredError as error:
            return Failed(error.code, error.reason, str(error))
        if answer.get("result") != 1:
            return Failed("INTERNAL", "JUDGE_REFUSED", "the judge's server says that it has no result")
        text = answer.get("answer")
        if not isinstance(text, str):
            return Failed("INTERNAL", "JUDGE_UNREADABLE", "the judge's answer has no text named answer")
        return sendable(text)
