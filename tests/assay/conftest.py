"""Fixtures: servers in second processes, and certificates."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
        deadline_s = time.monotonic() + 30
        while not ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline_s:
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


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    started: list[ServerProcess] = []

    def start(**settings: object) -> ServerProcess:
        started.append(ServerProcess(tmp_path, **settings))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ca.pem, server.pem/.key (for localhost and 127.0.0.1) and client.pem/.key."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test ca")
    (folder / "san.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.pem", "-days", "2", "-extfile", "san.ext"),
        )
    return folder
