"""The GenEval service on the miniature's weights, as users start it: a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def serve_geneval(folder: Path = ROOT) -> Iterator[str]:
    """Inside, the service runs in `folder`, where `configs` and `miniature` are; gives its gRPC address."""
    with tempfile.TemporaryDirectory() as place:
        ready = Path(place) / "ready.json"
        flags = ["serve.grpc_port=0", "serve.http_port=null", f"serve.ready_file={ready}"]
        command = [sys.executable, "-m", "assay.cli", "serve", "geneval", *flags]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        service = subprocess.Popen(command, cwd=folder, env=environment)
        try:
            deadline = time.monotonic() + 120
            while not ready.exists():
                assert service.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield json.loads(ready.read_text())["grpc"]
        finally:
            service.terminate()
            assert service.wait(timeout=60) == 0
