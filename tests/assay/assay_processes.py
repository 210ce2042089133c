"""A server in a second process, as the tests start it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


class ServerProcess:
    """A server in a process of its own, ready when constructed. `grpc` is its address."""

    def __init__(self, folder: Path, **settings: object) -> None:
        ready_file = folder / f"ready-{time.monotonic_ns()}.json"
        fields = {"grpc_port": 0, "http_port": 0, "drain_notice_s": 0.05, "ready_file": ready_file, **settings}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "serve_mean.py"), *(f"{name}={value}" for name, value in fields.items())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        deadline_s = time.monotonic() + 120
        while not ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                self.process.kill()
                raise RuntimeError(f"server did not start: {self.process.communicate()[1]}")
            time.sleep(0.02)
        ready = json.loads(ready_file.read_text())
        self.grpc, self.http = ready["grpc"], ready["http"]
        self.grpc_port = int(self.grpc.rsplit(":", 1)[1])

    def wait(self) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        stdout, stderr = self.process.communicate(timeout=20)
        return self.process.returncode, stdout, stderr

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
