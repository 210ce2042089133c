"""What a server did lately, for its status page: bounded in size, and without anything of what was scored."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.v1 import reward_service_pb2 as pb

FAILURES, CALLS, WINDOW_S = 50, 512, 60
_PARTS = ("queue_ns", "decode_ns", "infer_ns", "total_ns")


@dataclass(frozen=True)
class Failure:
    """A call that was refused (`items` is 0), or items of a call that got no score for one reason."""

    time_s: float
    scorer: str
    code: str
    reason: str
    items: int
    request_id: str


class RecentCalls:
    """The last answered calls of one scorer, and its items in each of the last seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = int(clock())
        self._timings: deque[tuple[int, ...]] = deque(maxlen=CALLS)
        self._seconds: deque[tuple[int, int]] = deque(maxlen=WINDOW_S + 1)  # (second, items), the running one too

    def add(self, items: int, timing: pb.Timing) -> None:
        self._timings.append(tuple(getattr(timing, part) for part in _PARTS))
        second = int(self._clock())
        if self._seconds and self._seconds[-1][0] == second:
            items += self._seconds.pop()[1]
        self._seconds.append((second, items))

    def items_per_second(self) -> float:
        """The mean over the last minute, or over less just after the start; the running second left out."""
        now = int(self._clock())
        first = max(self._started, now - WINDOW_S)
        return sum(items for second, items in self._seconds if first <= second < now) / max(1, now - first)

    def latency_ms(self) -> Mapping[str, Any]:
        """Median and 95th percentile of where the time of the last calls went."""
        if not self._timings:
            return {"calls": 0}
        p50, p95 = np.percentile(np.array(self._timings) / 1e6, [50, 95], axis=0)
        split = {
            part.removesuffix("_ns"): {"p50": float(low), "p95": float(high)}
            for part, low, high in zip(_PARTS, p50, p95, strict=True)
        }
        return {"calls": len(self._timings), **split}


class Recent:
    """The recent past of a server. `clock` gives seconds since the epoch."""

    def __init__(self, scorers: list[str], clock: Callable[[], float] = time.time) -> None:
        self.started_s = clock()
        self.clock = clock
        self.calls = {name: RecentCalls(clock) for name in scorers}
        self.failures: deque[Failure] = deque(maxlen=FAILURES)

    def fail(self, scorer: str, code: str, reason: str, items: int, request_id: str) -> None:
        self.failures.append(Failure(self.clock(), scorer, code, reason, items, request_id))
