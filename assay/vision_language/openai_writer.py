"""A model behind an OpenAI-compatible server that writes: chat completions at temperature 0.

The server is asked once at the start, and refused then if it writes nothing.
"""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from assay.background_loop import run_in_background
from assay.outcomes import Failed
from assay.vision_language.chat_server import ChatServer, image_parts
from assay.vision_language.completions import written_text
from assay.vision_language.http_questions import UnansweredError
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.writer import Written


class OpenAiWriter:
    """Writes by chat completions.

    Args:
        server: where the model is.

    Raises:
        ConfigError: the server cannot be asked.
    """

    # The order of arithmetic in a server's batches is not ours to know.
    deterministic = False

    def __init__(self, server: ChatServer) -> None:
        self._server = server
        completion = server.try_out(max_tokens=1, temperature=0.0)
        try:
            written_text(completion)
        except UnansweredError as error:
            raise server.unusable(str(error), error.reason) from error

    @property
    def fingerprint_parts(self) -> dict[str, str]:
        extra = sorted(self._server.block.extra_body.items())
        return {**self._server.fingerprint_parts, "request": repr(extra), "protocol": "temperature 0"}

    def special_text(self, text: str) -> str | None:
        return self._server.special_text(text)

    def input_size(self, image: NDArray[np.uint8]) -> tuple[int, int] | None:
        """None: how the server scales images, it does not tell."""
        return None

    def write(self, inquiries: Sequence[Inquiry], max_new_tokens: int) -> list[Written]:
        return run_in_background(self._write_all(inquiries, max_new_tokens)).result()

    async def _write_all(self, inquiries: Sequence[Inquiry], max_new_tokens: int) -> list[Written]:
        return await asyncio.gather(*(self._write_one(inquiry, max_new_tokens) for inquiry in inquiries))

    async def _write_one(self, inquiry: Inquiry, max_new_tokens: int) -> Written:
        try:
            completion = await self._server.ask(
                inquiry, image_parts(inquiry), len(inquiry.turns), max_new_tokens, temperature=0.0
            )
            return written_text(completion)
        except UnansweredError as error:
            return Failed(error.code, error.reason, str(error))
