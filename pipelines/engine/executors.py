"""Where attempts run. An executor takes tasks while it has room, and gives their results as they come."""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol

from pipelines.engine.attempt import Result, Task, attempt
from pipelines.engine.stage import Stage, Worker


class Executor(Protocol):
    """Runs attempts at units."""

    def has_room(self) -> bool:
        """Whether another task would start at once."""
        ...

    def submit(self, task: Task) -> None: ...

    def next_result(self, timeout_s: float) -> Result | None:
        """The next attempt to end, None if none does in that time."""
        ...

    def close(self) -> None:
        """Stop all workers; attempts under way are abandoned."""
        ...


class InProcess:
    """One worker, in this process, on one device. It is loaded at the first task, and another takes its place when the
    stage changes. Where the stage allows it, attempts run side by side in threads."""

    def __init__(self, stages: Mapping[str, Stage], device: str) -> None:
        self._stages = stages
        self._device = device
        self._stage: Stage | None = None
        self._worker: Worker | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._running: set[Future[Result]] = set()
        self._ended: deque[Result] = deque()

    def has_room(self) -> bool:
        most = self._stage.concurrency if self._stage else 1
        return len(self._running) + len(self._ended) < most

    def submit(self, task: Task) -> None:
        worker, stage = self._worker_of(self._stages[task.unit.stage])
        if self._threads is None:
            self._ended.append(attempt(worker, stage.check, task))
        else:
            self._running.add(self._threads.submit(attempt, worker, stage.check, task))

    def next_result(self, timeout_s: float) -> Result | None:
        if self._running and not self._ended:
            done, self._running = wait(self._running, timeout_s, FIRST_COMPLETED)
            self._ended.extend(future.result() for future in done)
        return self._ended.popleft() if self._ended else None

    def close(self) -> None:
        """A worker's own `close`, if it has one, ends what its threads are waiting for."""
        if self._worker is not None and hasattr(self._worker, "close"):
            self._worker.close()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self._stage, self._worker, self._threads = None, None, None

    def _worker_of(self, stage: Stage) -> tuple[Worker, Stage]:
        if self._worker is None or self._stage is not stage:
            self._ended.extend(future.result() for future in self._running)
            self._running = set()
            self.close()  # free the one before first
            self._worker = stage.load(self._device)
            self._stage = stage
            self._threads = ThreadPoolExecutor(stage.concurrency) if stage.concurrency > 1 else None
        return self._worker, stage
