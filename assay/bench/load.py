"""Two ways to put load on a service, and the record of what it did.

Closed loop: a fixed number of requests is under way; the next one goes when one has ended. It tells what a service can
do. Open loop: requests come at random moments (Poisson) at a given rate, whether or not earlier ones have ended, and
each counts from the moment at which it was to be sent. It tells what callers wait who do not wait for each other.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from assay.bench.payload import Payload, Request
from assay.bench.windows import Window
from assay.client import RewardClient
from assay.errors import AssayError
from assay.outcomes import Failed, Outcome
from assay.statistics import AnsweredCall


class Recorder:
    """Collects into the current window. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._window = Window()
        self._began_s = time.perf_counter()

    def cut(self) -> Window:
        """The window since the last cut."""
        with self._lock:
            now_s = time.perf_counter()
            window, self._window = self._window, Window()
            window.seconds, self._began_s = now_s - self._began_s, now_s
            return window

    def call(self, call: AnsweredCall) -> None:
        with self._lock:
            self._window.calls.append(call)

    def answered(self, latency_s: float, lag_s: float, outcomes: list[Outcome]) -> None:
        failed = [(outcome.code, outcome.reason) for outcome in outcomes if isinstance(outcome, Failed)]
        with self._lock:
            self._window.latencies_s.append(latency_s)
            self._window.lags_s.append(lag_s)
            self._window.images += len(outcomes) - len(failed)
            self._window.failures.update(failed)

    def failed(self, error: AssayError, images: int) -> None:
        with self._lock:
            self._window.failures[type(error).__name__, error.reason] += images


@dataclass
class Sender:
    """Sends requests of a payload through a client, and records their ends."""

    client: RewardClient
    scorer: str
    payload: Payload
    batch: int
    recorder: Recorder
    seed: int = 0
    _under_way: set["Future[list[Outcome]]"] = field(default_factory=set)
    _stopping: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def closed_loop(self, concurrency: int) -> Iterator[None]:
        """Keep `concurrency` requests under way inside the `with`."""
        requests = self.payload.requests(self.batch)
        turn = threading.Lock()  # answers come on another thread than the first requests are sent from

        def send_next() -> None:
            with turn:
                request = next(requests)
            self._send(request, time.perf_counter(), send_next)

        with self._until_left():
            for _ in range(concurrency):
                send_next()
            yield

    @contextmanager
    def open_loop(self, per_s: float) -> Iterator[None]:
        """Send `per_s` requests a second on average inside the `with`."""
        gaps = random.Random(self.seed)

        def run() -> None:
            due_s = time.perf_counter()
            for request in self.payload.requests(self.batch):
                due_s += gaps.expovariate(per_s)
                if self._stopping.wait(max(due_s - time.perf_counter(), 0.0)):
                    return
                self._send(request, due_s, None)

        sending = threading.Thread(target=run, name="assay-bench", daemon=True)
        with self._until_left():
            sending.start()
            try:
                yield
            finally:
                self._stopping.set()
                sending.join()

    @contextmanager
    def _until_left(self) -> Iterator[None]:
        self._stopping.clear()
        try:
            yield
        finally:
            self._stopping.set()
            for future in list(self._under_way):
                future.cancel()

    def _send(self, request: Request, due_s: float, then: Callable[[], None] | None) -> None:
        lag_s = time.perf_counter() - due_s
        future = self.client.submit(
            request.images, scorer=self.scorer, prompts=request.prompts, tasks=request.tasks, copies=False
        )
        self._under_way.add(future)

        def end(done: "Future[list[Outcome]]") -> None:
            self._under_way.discard(done)
            self._record(done, due_s, lag_s)
            if then is not None and not self._stopping.is_set():
                then()

        future.add_done_callback(end)

    def _record(self, done: "Future[list[Outcome]]", due_s: float, lag_s: float) -> None:
        latency_s = time.perf_counter() - due_s
        try:
            self.recorder.answered(latency_s, lag_s, done.result())
        except CancelledError:
            pass
        except AssayError as error:
            self.recorder.failed(error, self.batch)
