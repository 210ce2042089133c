"""The one asyncio event loop that gRPC uses in a process, on a daemon thread of its own.

gRPC's asyncio stack must not be used from several loops of one process. So every client, and every server that
`assay.testing` starts inside a test's process, lives on this loop; callers from any thread hand it coroutines.
"""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_owner_pid = 0


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop; started at the first call. A forked child gets its own, for threads do not survive a fork."""
    global _loop, _owner_pid
    with _lock:
        if _loop is None or _owner_pid != os.getpid():
            _loop = asyncio.new_event_loop()
            _owner_pid = os.getpid()
            threading.Thread(target=_loop.run_forever, name="assay-loop", daemon=True).start()
        return _loop


def run_in_background(coroutine: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
    """Start a coroutine on the loop from any thread. Cancelling the future cancels the coroutine."""
    return asyncio.run_coroutine_threadsafe(coroutine, background_loop())
