"""Failed authentications, counted by the peer's address. Who shows a right token is never asked for them."""

import time
from collections import OrderedDict
from collections.abc import Callable

WINDOW_S = 60.0
MAX_PEERS = 10_000


class FailedAttempts:
    """How often each peer failed in the running minute; of peers that are too many the oldest are forgotten.

    Args:
        limit: attempts that a peer may fail a minute before it is told to wait.
        clock: seconds, monotonic.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._peers: OrderedDict[str, tuple[float, int]] = OrderedDict()  # -> (start of its window, attempts in it)

    def add(self, peer: str) -> float | None:
        """Count one; if the peer is over its limit, the seconds until its window ends."""
        now_s = self._clock()
        started_s, count = self._peers.pop(peer, (now_s, 0))
        if now_s - started_s >= WINDOW_S:
            started_s, count = now_s, 0
        self._peers[peer] = (started_s, count + 1)
        if len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        return started_s + WINDOW_S - now_s if count >= self._limit else None
