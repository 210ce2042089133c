"""When enough has been measured: windows of time are compared until the last three agree.

The rule is that of NVIDIA's perf_analyzer: throughput and latency of each of the last three windows lie within 10 % of
their mean. The latency is the 95th percentile. In an open loop it decides alone: throughput is then what chance sent.
What is reported are the last three windows together.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from assay.statistics import AnsweredCall

WINDOWS = 3
TOLERANCE = 0.10


@dataclass
class Window:
    """What happened in some seconds.

    Args:
        seconds: how many.
        latencies_s: of each request that was answered, from when it was to be sent.
        lags_s: how much later than that it was sent.
        images: that got a score.
        failures: (code or error, reason) -> how many images without a score.
        calls: what the service said of the calls behind the requests.
    """

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    images: int = 0
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    calls: list[AnsweredCall] = field(default_factory=list)

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds if self.seconds > 0 else 0.0


def merge(windows: Sequence[Window]) -> Window:
    """Several windows as one."""
    return Window(
        seconds=sum(window.seconds for window in windows),
        latencies_s=[latency for window in windows for latency in window.latencies_s],
        lags_s=[lag for window in windows for lag in window.lags_s],
        images=sum(window.images for window in windows),
        failures=sum((window.failures for window in windows), Counter()),
        calls=[call for window in windows for call in window.calls],
    )


def is_stable(windows: Sequence[Window], *, is_open_loop: bool) -> bool:
    """Whether the last windows agree, and something was answered in each."""
    last = windows[-WINDOWS:]
    if len(last) < WINDOWS or not all(window.latencies_s and window.images for window in last):
        return False
    late_s = [percentile(window.latencies_s, 0.95) for window in last]
    return _agree(late_s) and (is_open_loop or _agree([window.images_per_s for window in last]))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed; NaN if there are none."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)] if values else math.nan


def _agree(values: Sequence[float]) -> bool:
    mean = sum(values) / len(values)
    return all(abs(value - mean) <= TOLERANCE * mean for value in values)
