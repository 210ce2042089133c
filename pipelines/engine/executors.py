"""Where attempts run. An executor takes tasks while it has room, and gives their results as they come."""

from collections.abc import Mapping
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
    stage changes."""

    def __init__(self, stages: Mapping[str, Stage], device: str) -> None:
        self._stages = stages
        self._device = device
        self._loaded: tuple[str, Worker] | None = None
        self._result: Result | None = None

    def has_room(self) -> bool:
        return self._result is None

    def submit(self, task: Task) -> None:
        stage = self._stages[task.unit.stage]
        if self._loaded is None or self._loaded[0] != stage.name:
            self._loaded = None  # free the one before first
            self._loaded = stage.name, stage.load(self._device)
        self._result = attempt(self._loaded[1], stage.check, task)

    def next_result(self, timeout_s: float) -> Result | None:
        result, self._result = self._result, None
        return result

    def close(self) -> None:
        self._loaded = None
