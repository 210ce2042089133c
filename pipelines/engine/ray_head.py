"""Whether the head of a Ray cluster is still there: the process that knows about all others.

Without it calls of Ray wait, and after 60 s Ray ends the program without a word. So it is looked after from outside.
"""

import socket
import time

from pipelines.engine.batch import BatchStoppedError

LOOK_S = 2.0
SILENT_S = 20.0


class RayHead:
    """The head at an address "host:port". It may be silent for `SILENT_S`, and is looked after every `LOOK_S`."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = host.strip("[]"), int(port)
        self._looked = self._answered = time.monotonic()

    def look(self) -> bool:
        """Whether it answers; False also if it is too early to look again.

        Raises:
            BatchStoppedError: it has been silent for too long.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return False
        self._looked = now
        if self.answers():
            self._answered = now
            return True
        if now - self._answered > SILENT_S:
            host, port = self._address
            raise BatchStoppedError(f"the head of the Ray cluster, {host}:{port}, is gone; run the same command again")
        return False

    def answers(self) -> bool:
        """Whether it accepts a connection."""
        try:
            socket.create_connection(self._address, timeout=LOOK_S).close()
        except OSError:
            return False
        return True
