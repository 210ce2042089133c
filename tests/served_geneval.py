"""Services on the miniature's weights, as users start them: processes of their own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


def serve_geneval(folder: Path = ROOT) -> AbstractContextManager[str]:
    """`serve` for GenEval."""
    return serve(["geneval"], folder)


@contextmanager
def serve(words: Sequence[str], folder: Path = ROOT) -> Iterator[str]:
    """Inside, `assay serve WORDS` runs in `folder`, where `configs` and `miniature` are; gives its gRPC address."""
    with tempfile.TemporaryDirectory() as place:
        ready = Path(place) / "ready.json"
        flags = ["serve.grpc_port=0", "serve.http_port=null", f"serve.ready_file={ready}"]
        command = [sys.executable, "-m", "assay.cli", "serve", *words, *flags]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        service = subprocess.Popen(command, cwd=folder, env=environment)
        try:
            deadline = time.monotonic() + 300
            while not ready.exists():
                assert service.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield json.loads(ready.read_text())["grpc"]
        finally:
            service.terminate()
            assert service.wait(timeout=60) == 0
