"""One call to a service as attempts on its replicas, until the one deadline: elsewhere after UNAVAILABLE, and twice at
a time when the first attempt is late (`assay.hedging`).

Every method of the contract may be repeated: scores have no side effects.
"""

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from assay import errors
from assay.hedging import SHORTEST_DELAY_S, Hedging
from assay.replica_pool import ReplicaPool
from assay.replicas import Replica, ReplicaUnavailable

#: After this share of its time a call gets a copy that no budget pays for.
LATE_SHARE = 0.5
#: Seconds between two looks whether the budget has room for a late call's copy, at most, unless calls take longer.
LONGEST_LOOK_S = 0.25


@dataclass(frozen=True)
class Attempt:
    """What is asked of replicas. `deadline_s` is on the monotonic clock; without `scorer` there is no second copy."""

    method: str
    request: bytes
    deadline_s: float
    pixels: int = 0
    scorer: str | None = None
    limit_s: float | None = None

    @property
    def remaining_s(self) -> float:
        return self.deadline_s - time.monotonic()

    async def on(self, replica: Replica) -> Any:
        return await replica.call(self.method, self.request, self.remaining_s)


@dataclass
class Counts:
    """Calls to the service, what was tried again after a failure, copies that were made, and those that won."""

    calls: int = 0
    retried: int = 0
    hedged: int = 0
    hedges_won: int = 0


class Caller:
    """Calls whichever replica is best."""

    def __init__(self, pool: ReplicaPool, hedging: Hedging) -> None:
        self._pool = pool
        self._hedging = hedging
        self.counts = Counts()

    async def call(self, attempt: Attempt) -> Any:
        """The response. Raises: AssayError."""
        await self._pool.start(attempt.remaining_s)
        self.counts.calls += attempt.scorer is not None
        last: ReplicaUnavailable | None = None
        while True:
            replica = self._pool.choose()
            if attempt.remaining_s <= 0:
                self._raise_late(last, attempt.limit_s)
            if replica is None:
                last = last or self._pool.last_failure
                await self._pool.wait(attempt.remaining_s)
                continue
            try:
                with replica.carrying(attempt.pixels):
                    return await self._hedged(attempt, replica)
            except ReplicaUnavailable as error:
                self.counts.retried += 1
                last = error

    async def _hedged(self, attempt: Attempt, replica: Replica) -> Any:
        """The answer of one replica, or of two if the first is late."""
        if attempt.scorer is None:
            return await attempt.on(replica)
        started_s = time.monotonic()
        if self._hedging.is_on and len(self._pool.replicas) > 1:
            delay_s = self._hedging.delay_s(attempt.scorer, attempt.pixels)
            response = await self._race(attempt, replica, delay_s)
        else:
            response = await attempt.on(replica)
        self._hedging.observe(attempt.scorer, attempt.pixels, time.monotonic() - started_s)
        return response

    async def _race(self, attempt: Attempt, first: Replica, delay_s: float | None) -> Any:
        """`first` gets a rival after `delay_s`; cancels whoever loses."""
        running = {asyncio.create_task(attempt.on(first)): first}
        try:
            second = await self._rival(attempt, running, first, delay_s)
            if second is None:
                return next(iter(running)).result()
            self.counts.hedged += 1
            with second.carrying(attempt.pixels):
                running[asyncio.create_task(attempt.on(second))] = second
                winner, response = await _first_answer(running)
            if winner is not first:
                self.counts.hedges_won += 1
                if not next(iter(running)).done():
                    first.unanswered()
            return response
        finally:
            for task in running:
                task.cancel()
            if not all(task.done() for task in running):
                await asyncio.gather(*running, return_exceptions=True)

    async def _rival(
        self, attempt: Attempt, running: Collection["asyncio.Task[Any]"], first: Replica, delay_s: float | None
    ) -> Replica | None:
        """Wait for the answer; None if it came before there was reason and leave for a second attempt.

        The budget's leave is not needed once half of the call's time has gone: a failed call costs more than a copy.
        """
        late_s = time.monotonic() + LATE_SHARE * attempt.remaining_s
        while True:
            to_late_s = late_s - time.monotonic()
            step_s = to_late_s if delay_s is None or 0 < to_late_s < delay_s else delay_s
            done, _ = await asyncio.wait(running, timeout=max(step_s, SHORTEST_DELAY_S))
            if done:
                return None
            second = self._pool.choose(first)
            is_late = time.monotonic() >= late_s
            if second is not None and (is_late or self._hedging.take()):
                return second
            if is_late:  # whoever comes back must still have the time to answer
                delay_s = min(LONGEST_LOOK_S, attempt.remaining_s / 2)
                continue
            # The more calls wait for a copy, the more often each would look in vain.
            delay_s = min(2 * max(step_s, SHORTEST_DELAY_S), max(step_s, LONGEST_LOOK_S))

    def _raise_late(self, last: ReplicaUnavailable | None, limit_s: float | None) -> NoReturn:
        targets = self._pool.targets
        where = ", ".join(targets)
        within = "" if limit_s is None else f" within {limit_s:g} s"
        if last is None:
            raise errors.DeadlineExceededError(
                f"no answer from {where}{within}", reason="DEADLINE_EXCEEDED", targets=targets
            )
        raise errors.ServiceUnavailableError(
            f"no replica of {where} was available{within}: {last}", reason=last.reason, targets=targets
        ) from last


async def _first_answer(running: Mapping["asyncio.Task[Any]", Replica]) -> tuple[Replica, Any]:
    """(who answered first, the answer). Who is unavailable, too late or broken loses: the other may still answer.

    Any other error ends the race. If all lose, the call fails as it would have without a copy.
    """
    waiting = set(running)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            try:
                return running[task], task.result()
            except (ReplicaUnavailable, errors.DeadlineExceededError, errors.ServiceFailedError):
                continue
    first = next(iter(running))
    return running[first], first.result()
