"""Fixtures: a scorer and a client of what a module serves, servers in second processes, and certificates."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from assay_doubles import MeanScorer
from assay_processes import ServerProcess

from assay.client import RewardClient
from assay.testing import BackgroundServer


@pytest.fixture
def scorer() -> Iterator[MeanScorer]:
    """Waits no longer than the test."""
    scorer = MeanScorer()
    yield scorer
    scorer.gate.set()


@pytest.fixture
def client(server: BackgroundServer) -> Iterator[RewardClient]:
    """Of the module's own `server`."""
    with RewardClient([server.target], deadline_s=20) as client:
        yield client


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
