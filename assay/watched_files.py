"""Secrets in files that are replaced while a process runs: read again when they change, kept while they are broken."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from assay.errors import ConfigError

logger = logging.getLogger("assay.files")

T = TypeVar("T")
_Signature = tuple[tuple[int, int, int], ...]


class WatchedFiles(Generic[T]):
    """What some files say. May be used from several threads.

    A change that cannot be taken over (a file is gone, or half written) leaves what was read before in force, is
    logged, and is tried again with the next change.

    Args:
        paths: the files.
        read: makes sense of them; raises ConfigError.
        on_failure: called for each change that `read` refused.
        look_every_s: how often to look for changes at most; files are looked at when asked for, never in between.
    """

    def __init__(
        self, paths: Sequence[Path], read: Callable[[], T], on_failure: Callable[[], None], look_every_s: float = 1.0
    ) -> None:
        self._paths, self._read, self._on_failure = paths, read, on_failure
        self._look_every_s = look_every_s
        self._lock = threading.Lock()
        self._signature = self._look()
        self._looked_s = time.monotonic()
        self._content = read()

    def current(self, *, at_once: bool = False) -> T:
        """What the files say now; `at_once`: they are looked at, however short ago that was."""
        with self._lock:
            if at_once or time.monotonic() - self._looked_s >= self._look_every_s:
                self._looked_s = time.monotonic()
                self._take_over()
            return self._content

    def _take_over(self) -> None:
        signature = self._look()
        if signature == self._signature:
            return
        self._signature = signature
        names = ", ".join(str(path) for path in self._paths)
        try:
            self._content = self._read()
        except ConfigError as error:
            self._on_failure()
            logger.error("%s changed and cannot be used, the former stays in force: %s", names, error)
        else:
            logger.info("%s changed and was read again", names)

    def _look(self) -> _Signature:
        """What tells a file from the one that replaces it. A link is followed: Kubernetes exchanges that alone."""
        found = []
        for path in self._paths:
            try:
                status = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)
