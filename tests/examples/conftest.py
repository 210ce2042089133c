"""What tests of the examples share: the examples themselves on the path, and a served GenEval."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests")]  # as a user's trainer finds them; and page_commands


@pytest.fixture(scope="session")
def geneval(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `assay serve geneval`, a process of its own, on the miniature's weights."""
    ready = tmp_path_factory.mktemp("geneval") / "ready.json"
    flags = ["serve.grpc_port=0", "serve.http_port=null", f"serve.ready_file={ready}"]
    service = subprocess.Popen(
        [sys.executable, "-m", "assay.cli", "serve", "geneval", *flags],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not ready.exists():
            assert service.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield json.loads(ready.read_text())["grpc"]
    finally:
        service.terminate()
        service.wait(timeout=60)
