"""The one thread on which all models of a process run.

A daemon thread, not an executor: a process told to stop now must not wait for a model that hangs.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Callable[[], Any], asyncio.Future[Any]]


class ModelThread:
    """Runs functions one after the other. Use it from one event loop."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="assay-model", daemon=True)
        self._thread.start()

    async def run(self, function: Callable[[], T]) -> T:
        """Run `function` on the thread; what it raises is raised here."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((function, future))
        return await future

    def close(self) -> None:
        """End the thread after the jobs it has."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, future = job
            loop = future.get_loop()
            try:
                result = function()
            except Exception as error:  # part of the batch executor: handed on to who waits for the batch
                loop.call_soon_threadsafe(_fail, future, error)
            else:
                loop.call_soon_threadsafe(_succeed, future, result)
            # Else the last batch would live on until the next one comes.
            del job, function, future


def _succeed(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
