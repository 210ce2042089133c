"""Whether a replica is called: not while it is down, nor while it asked to be left alone. Knows no network.

Down is what refuses or loses calls (one is enough), or leaves several in a row unanswered. It is then asked, after
pauses that grow, whether it lives; the answer to that question closes the breaker, a score resets the pauses.
"""

import random
import time
from collections.abc import Callable

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
#: The longest rest that is granted, in seconds, whatever is asked for.
LONGEST_REST_S = 60.0
#: Calls in a row that were not answered before another replica did, or the deadline came. One may be a large call.
UNANSWERED_CALLS = 3


class CircuitBreaker:
    """Closed: calls go through. Open: none does. `close` is for who has asked the replica.

    Args:
        clock: seconds that never go backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.is_open = False
        self._failures = 0
        self._unanswered = 0
        self._resting_until_s = 0.0

    @property
    def admits(self) -> bool:
        return not self.is_open and self.rest_s <= 0

    @property
    def rest_s(self) -> float:
        """Seconds for which the replica asked to be left alone."""
        return self._resting_until_s - self._clock()

    @property
    def pause_s(self) -> float:
        """Seconds to wait before it is asked whether it lives. Spread out: clients must not come back together."""
        return min(FIRST_PAUSE_S * 2.0 ** (self._failures - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)

    def answered(self) -> None:
        """It did what it is for."""
        self._failures = self._unanswered = 0

    def failed(self) -> None:
        """It refused or lost a call, or did not say that it lives. Calls that fail together count once."""
        if not self.is_open:
            self.is_open = True
            self._count_failure()

    def probe_failed(self) -> None:
        """Asked whether it lives, it did not say so."""
        self._count_failure()

    def unanswered(self) -> None:
        """A call ended without its answer."""
        self._unanswered += 1
        if self._unanswered >= UNANSWERED_CALLS:
            self._unanswered = 0
            self.failed()

    def rest(self, asked_s: float) -> None:
        """Leave it alone for as long as it asks for. Calls that were refused together count once."""
        if self.rest_s <= 0:
            self._resting_until_s = self._clock() + min(asked_s, LONGEST_REST_S) * random.uniform(1.0, 1.5)

    def close(self) -> None:
        self.is_open = False

    def _count_failure(self) -> None:
        self._failures = min(self._failures + 1, 100)  # no float holds 2 ** 1024
