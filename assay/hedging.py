"""When a call is worth a second copy on another replica, and how many copies there may be. Knows no network.

A copy is due when the call has taken longer than 95 % of the recent calls of its size, and than two usual ones: a copy
takes the time of a usual call itself, so before that it would come too late. Calls differ in size, and their time is no
simple multiple of it (queues, batches), so each size has a record of its own: pixels up to the next power of two.
Copies are a fixed share of all calls: when everything is slow, more load would not help. The exception is made in
`assay.attempts`: a call that has waited for half of its time gets a copy that no budget pays for.
"""

import math
from bisect import bisect_left, insort
from collections import deque

RECENT_CALLS = 200
NEEDED_CALLS = 20
USUAL, LATE = 0.5, 0.95
#: Below this a copy costs more than it saves.
SHORTEST_DELAY_S = 0.01
#: Copies that may be made at once after a calm time.
BURST_COPIES = 10.0


class RecentLatencies:
    """The seconds that the last calls of one size took, kept in order."""

    def __init__(self) -> None:
        self._arrived: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, seconds: float) -> None:
        if len(self._arrived) == RECENT_CALLS:
            del self._sorted[bisect_left(self._sorted, self._arrived.popleft())]
        self._arrived.append(seconds)
        insort(self._sorted, seconds)

    @property
    def count(self) -> int:
        return len(self._sorted)

    def quantile(self, share: float) -> float:
        """The smallest time that `share` of the calls did not exceed."""
        return self._sorted[math.ceil(share * self.count) - 1]


class Hedging:
    """Decides on copies for one client.

    Args:
        budget: copies per call, in [0, 1], those at half a call's time not counted; 0 makes none, not even then.
    """

    def __init__(self, budget: float) -> None:
        self.is_on = budget > 0
        self._budget = budget
        self._tokens = 0.0
        self._latencies: dict[tuple[str, int], RecentLatencies] = {}

    def delay_s(self, scorer: str, pixels: int) -> float | None:
        """After how long a call should have been answered; None if that is not known."""
        latencies = self._latencies.get(_size_class(scorer, pixels))
        if latencies is None or latencies.count < NEEDED_CALLS:
            return None
        return max(latencies.quantile(LATE), 2 * latencies.quantile(USUAL), SHORTEST_DELAY_S)

    def observe(self, scorer: str, pixels: int, seconds: float) -> None:
        """A call was answered after `seconds`. Earns a part of a copy."""
        self._latencies.setdefault(_size_class(scorer, pixels), RecentLatencies()).add(seconds)
        self._tokens = min(self._tokens + self._budget, BURST_COPIES)

    def take(self) -> bool:
        """Whether a copy may be made; it then counts."""
        # A little less than one: twenty times 0.05 is not quite one.
        if self._tokens < 1 - 1e-9:
            return False
        self._tokens -= 1
        return True


def _size_class(scorer: str, pixels: int) -> tuple[str, int]:
    return scorer, pixels.bit_length()
