"""SIGTERM ends a run as Ctrl-C does: through every `finally`, so that nothing stays claimed or half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def unwinding_on_termination() -> Iterator[None]:
    """Within it SIGTERM raises SystemExit(143), unless the program has given SIGTERM a meaning of its own, as Ray does.
    In a thread it changes nothing, since signals come to the main one."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)
