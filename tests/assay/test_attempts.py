"""One call, two attempts: which answer counts, and when a copy is made. Replicas are played by coroutines."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from assay import errors
from assay.attempts import Attempt, Caller
from assay.hedging import NEEDED_CALLS, Hedging
from assay.replicas import ReplicaUnavailable

Answer = Callable[[float], Awaitable[str]]


class PlayedReplica:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.unanswered_calls = 0

    @contextmanager
    def carrying(self, pixels: int) -> Iterator[None]:
        yield

    async def call(self, method: str, request: bytes, timeout_s: float) -> str:
        return await self._answer(timeout_s)

    def unanswered(self) -> None:
        self.unanswered_calls += 1


class PlayedPool:
    """The second replica is away for the first `misses` looks."""

    targets = ("first", "second")
    last_failure = None

    def __init__(self, first: Answer, second: Answer, misses: int = 0) -> None:
        self.replicas = [PlayedReplica(first), PlayedReplica(second)]
        self._misses = misses

    async def start(self, timeout_s: float) -> None:
        pass

    def choose(self, other_than: PlayedReplica | None = None) -> PlayedReplica | None:
        if other_than is None:
            return self.replicas[0]
        self._misses -= 1
        return self.replicas[1] if self._misses < 0 else None


def call(pool: Any, deadline_s: float, hedging: Hedging) -> str:
    async def within_a_minute() -> Any:
        attempt = Attempt("Score", b"", time.monotonic() + deadline_s, 1, "mean")
        return await asyncio.wait_for(Caller(pool, hedging).call(attempt), 60)

    return str(asyncio.run(within_a_minute()))


def eager() -> Hedging:
    """A copy is due after 10 ms."""
    hedging = Hedging(1.0)
    for _ in range(NEEDED_CALLS):
        hedging.observe("mean", 1, 0.001)
    return hedging


REFUSALS = [
    errors.DeadlineExceededError("the queue is too long", reason="DEADLINE_TOO_SHORT"),
    errors.ServiceFailedError("INTERNAL"),
    ReplicaUnavailable("it is full", "QUEUE_FULL"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
@pytest.mark.parametrize("refused", ["first", "second"])
def test_an_attempt_that_is_refused_leaves_the_call_to_the_other(refused: str, refusal: Exception) -> None:
    copied, over = asyncio.Event(), asyncio.Event()

    async def refuses(remaining_s: float) -> str:
        await copied.wait()
        over.set()
        raise refusal

    async def scores(remaining_s: float) -> str:
        await over.wait()
        await asyncio.sleep(0.01)  # the refusal comes first
        return "score"

    first, second = (refuses, scores) if refused == "first" else (scores, refuses)

    async def copy(remaining_s: float) -> str:
        copied.set()
        return await second(remaining_s)

    pool = PlayedPool(first, copy)
    assert call(pool, 60, eager()) == "score"
    assert pool.replicas[0].unanswered_calls == 0  # it answered, with a refusal


def test_when_both_are_refused_the_call_fails_as_it_would_have_without_a_copy() -> None:
    copied = asyncio.Event()

    async def first(remaining_s: float) -> str:
        await copied.wait()
        raise errors.ServiceFailedError("the first")

    async def second(remaining_s: float) -> str:
        copied.set()
        await asyncio.sleep(0.01)
        raise errors.DeadlineExceededError("the copy")

    with pytest.raises(errors.ServiceFailedError, match="the first"):
        call(PlayedPool(first, second), 60, eager())


def test_what_no_replica_would_do_ends_the_race() -> None:
    async def first(remaining_s: float) -> str:
        await asyncio.sleep(50)
        return "score"

    async def second(remaining_s: float) -> str:
        raise errors.InvalidRequestError("no such field")

    with pytest.raises(errors.InvalidRequestError, match="no such field"):
        call(PlayedPool(first, second), 60, eager())


def test_who_was_away_at_half_the_time_is_looked_for_again_before_the_end() -> None:
    async def first(remaining_s: float) -> str:
        await asyncio.sleep(50)
        return "score"

    async def second(remaining_s: float) -> str:
        return "in time" if remaining_s > 0 else "too late"

    assert call(PlayedPool(first, second, misses=1), 4.0, Hedging(1e-9)) == "in time"
