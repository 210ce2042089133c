"""One question to a server that takes and gives JSON: ask until it is answered, refused, or too late.

Only what may be over the next moment is tried again: lost connections, 429 and 503. All attempts at a question share
one deadline. What a server writes when it fails goes to the log; callers learn its status alone.
"""

import asyncio
import json
import logging
import random
from collections.abc import Mapping
from typing import Any

import httpx

logger = logging.getLogger("assay.vision_language")

_LATER = (429, 503)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 8.0


class UnansweredError(Exception):
    """A question got no answer. `code` and `reason` are those of `assay.outcomes.Failed`."""

    def __init__(self, code: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class HttpQuestions:
    """A path of a server to which questions are posted. Use it from one event loop.

    Args:
        url: of that path.
        api_key: sent as a bearer token; None sends none.
        deadline_s: seconds for one question, all attempts together.
        max_attempts: at one question.
        max_concurrency: questions in flight.
    """

    def __init__(
        self, url: str, api_key: str | None, *, deadline_s: float, max_attempts: int, max_concurrency: int
    ) -> None:
        self._url = url
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=max_concurrency, max_keepalive_connections=max_concurrency)
        # Questions end by the deadline below; httpx's own time-outs count single reads.
        self._client = httpx.AsyncClient(headers=headers, limits=limits, timeout=None)
        self._deadline_s = deadline_s
        self._max_attempts = max_attempts
        self._free = asyncio.Semaphore(max_concurrency)

    async def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The server's answer, a JSON object.

        Raises:
            UnansweredError: there is none.
        """
        async with self._free:
            try:
                async with asyncio.timeout(self._deadline_s):
                    return await self._attempt_all(body)
            except TimeoutError:
                raise UnansweredError(
                    "DEADLINE_EXCEEDED", "JUDGE_TOO_SLOW", f"the judge's server took more than {self._deadline_s} s"
                ) from None

    async def _attempt_all(self, body: Mapping[str, Any]) -> dict[str, Any]:
        for attempt in range(1, self._max_attempts + 1):
            pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
            try:
                response = await self._client.post(self._url, json=body)
            except httpx.TransportError as error:
                problem = f"the judge's server could not be reached: {type(error).__name__}"
            else:
                if response.status_code not in _LATER:
                    return _read(response)
                problem = f"the judge's server answered {response.status_code}"
                pause_s = max(pause_s, _retry_after_s(response))
            logger.info("%s (attempt %d of %d)", problem, attempt, self._max_attempts)
            if attempt < self._max_attempts:
                await asyncio.sleep(pause_s)
        raise UnansweredError("UNAVAILABLE", "JUDGE_UNAVAILABLE", f"{problem}, {self._max_attempts} times")


def sendable(text: str) -> str:
    """A text as it may travel on: JSON can spell halves of characters, which no protobuf string holds."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _read(response: httpx.Response) -> dict[str, Any]:
    if response.status_code != 200:
        logger.warning("the judge's server answered %d: %.500s", response.status_code, response.text)
        raise UnansweredError(
            "INTERNAL",
            "JUDGE_REFUSED",
            f"the judge's server answered {response.status_code}; the log says why",
        )
    try:
        answer = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        logger.warning("the judge's server answered no JSON: %.500s", response.text)
        raise UnansweredError("INTERNAL", "JUDGE_UNREADABLE", "the judge's answer is no JSON") from error
    if not isinstance(answer, dict):
        raise UnansweredError("INTERNAL", "JUDGE_UNREADABLE", "the judge's answer is no JSON object")
    return answer


def _retry_after_s(response: httpx.Response) -> float:
    """What the server asks for in seconds; 0 if it does not, or gives a date."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.replace(".", "", 1).isdigit() else 0.0
