"""Waiting for what another thread or process brings about."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], timeout_s: float = 20, what: str = "the condition") -> T:
    """What `condition` gives, once that is true."""
    deadline_s = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline_s, f"{what} was not met in time"
        time.sleep(0.005)
    return result
