"""Measure one level of load: window after window, until they agree, or there were enough, or the user has."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

from assay.bench.load import Recorder, Sender
from assay.bench.payload import Payload
from assay.bench.windows import Window, is_stable
from assay.client import RewardClient
from assay.statistics import AnsweredCall, ClientStatistics

Connect = Callable[[Callable[[AnsweredCall], None]], RewardClient]


@dataclass(frozen=True)
class Level:
    """How much load: so many requests at once, or so many a second."""

    kind: Literal["concurrency", "rate"]
    value: float

    def __str__(self) -> str:
        return f"{self.kind} {self.value:g}"


@dataclass
class Measurement:
    """What was measured at one level, so far."""

    level: Level
    windows: list[Window] = field(default_factory=list)
    client: ClientStatistics | None = None
    was_interrupted: bool = False

    @property
    def is_stable(self) -> bool:
        return is_stable(self.windows, is_open_loop=self.level.kind == "rate")


@dataclass(frozen=True)
class Bench:
    """Measures levels, one after the other.

    Args:
        connect: makes the client of a level, which tells its argument of every call.
        scorer: that is asked.
        payload: what is sent, `batch` images a request.
        window_s: seconds a window.
        max_windows: of a level that does not become stable.
    """

    connect: Connect
    scorer: str
    payload: Payload
    batch: int
    window_s: float
    max_windows: int
    seed: int = 0

    def measure(self, level: Level, on_window: Callable[[Measurement], None]) -> Measurement:
        """Put on the load and watch. Ctrl-C ends it with what is there."""
        measured = Measurement(level)
        recorder = Recorder()
        with self.connect(recorder.call) as client:
            sender = Sender(client, self.scorer, self.payload, self.batch, recorder, self.seed)
            try:
                with self._load(sender, level):
                    self._watch(measured, recorder, on_window)
            except KeyboardInterrupt:
                measured.was_interrupted = True
                measured.windows.append(recorder.cut())
            measured.client = client.statistics
        return measured

    def _watch(self, measured: Measurement, recorder: Recorder, on_window: Callable[[Measurement], None]) -> None:
        while len(measured.windows) < self.max_windows and not measured.is_stable:
            time.sleep(self.window_s)
            measured.windows.append(recorder.cut())
            on_window(measured)

    def _load(self, sender: Sender, level: Level) -> AbstractContextManager[None]:
        if level.kind == "concurrency":
            return sender.closed_loop(int(level.value))
        return sender.open_loop(level.value)
