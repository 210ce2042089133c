"""A bound on the bytes that a client has on their way, so that a large batch does not fill its memory."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """First come, first served. What alone exceeds the bound goes when nothing else is under way."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.in_flight = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, num_bytes: int) -> AsyncIterator[None]:
        """Wait for room for `num_bytes`, and hold it inside the `async with`."""
        if self._waiting or not self._fits(num_bytes):
            await self._wait_for_room(num_bytes)
        else:
            self.in_flight += num_bytes
        try:
            yield
        finally:
            self._release(num_bytes)

    async def _wait_for_room(self, num_bytes: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (num_bytes, turn)
        self._waiting.append(place)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(num_bytes)  # the room was given in the very moment of the cancellation
            else:
                self._waiting.remove(place)
                self._wake()
            raise

    def _fits(self, num_bytes: int) -> bool:
        return self.in_flight == 0 or self.in_flight + num_bytes <= self._max_bytes

    def _release(self, num_bytes: int) -> None:
        self.in_flight -= num_bytes
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            num_bytes, turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += num_bytes
                turn.set_result(None)
