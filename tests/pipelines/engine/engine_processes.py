"""Starting `engine_run.py` in second processes, and waiting for them to get somewhere."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("engine_run.py")
#: What a process that unpickles these tests' stages must be able to import.
PYTHON_PATH = os.pathsep.join([str(SCRIPT.parents[3]), str(SCRIPT.parent)])
WAIT_S = 120


class Run:
    """A batch run in a process, a session and a process group of its own."""

    def __init__(
        self,
        root: Path,
        units: list[dict[str, Any]],
        *,
        settings_folder: Path | None = None,
        environment: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        beside = settings_folder or root.parent
        defaults = {"lease_s": 60.0, "poll_s": 0.05, "workers": 0, "retries": 2, "load": "drawer"}
        defaults["ray_address"] = None
        defaults["log"] = str(beside / f"{root.name}.log")
        chosen = {**defaults, "root": str(root), "units": units, **settings}
        self.root, self.log = root, Path(chosen["log"])
        path = beside / f"{root.name}-{time.monotonic_ns()}.json"
        path.write_text(json.dumps(chosen))
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHON_PATH, **(environment or {})},
        )

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        stdout, stderr = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, stdout, stderr

    def report(self) -> dict[str, int]:
        """What it reported; it must have ended well."""
        code, stdout, stderr = self.wait()
        assert code == 0, stderr
        return json.loads(stdout.splitlines()[-1])

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def wait_until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {WAIT_S} s until {what}")
        time.sleep(0.005)
