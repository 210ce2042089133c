"""The commands of docs/security.md and docs/observability.md do what the pages say."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from assay.serving.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def commands(page: str) -> list[str]:
    """Indented lines of a page that are typed into a shell, in order."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(r"^    ((?:\w+=\S+ )*(?:\.venv/|scripts/|grep |chmod ).*)$", text, re.MULTILINE)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("configs", "docs", "miniature", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "secrets").mkdir()
    return tmp_path


@contextmanager
def served(command: str, home: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run a command that serves, on a free port; (the port, the process)."""
    ready = home / "ready.json"
    free = f" serve.grpc_port=0 serve.http_port=0 serve.ready_file={ready}"
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            f"exec env {command}{free}", shell=True, cwd=home, env=ENVIRONMENT, stdout=log, stderr=log, text=True
        )
        try:
            deadline_s = time.monotonic() + 120
            while not ready.exists():
                assert process.poll() is None, (home / "log").read_text()
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            yield int(json.loads(ready.read_text())["grpc"].rsplit(":", 1)[1]), process
        finally:
            process.terminate()
            process.wait(30)


def run(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, shell=True, cwd=home, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture
def secured(home: Path) -> Path:
    """What the page has one make before anything is served."""
    for command in commands("security.md")[:-4]:
        done = run(command, home)
        assert done.returncode == 0, done.stderr
    return home


def test_the_commands_of_the_security_page_make_a_service_that_only_friends_can_call(secured: Path) -> None:
    serving, scoring = commands("security.md")[-4:-2]
    assert (secured / "secrets" / "tls" / "server.key").stat().st_mode & 0o077 == 0
    assert [line.split()[0] for line in (secured / "secrets" / "tokens").read_text().splitlines()] == [
        "trainer",
        "prometheus",
    ]
    with served(serving, secured) as (port, _):
        scoring = scoring.replace(":50051", f":{port}")
        done = run(scoring, secured)
        assert done.returncode == 0, done.stderr
        assert "1.0" in done.stdout
        stranger = run(scoring.replace("ASSAY_TOKEN_FILE=secrets/trainer_token", "ASSAY_TOKEN=wrong"), secured)
        assert stranger.returncode != 0
        assert "token" in stranger.stderr


def test_the_commands_of_the_security_page_ask_for_certificates_and_show_one(secured: Path) -> None:
    serving, scoring = commands("security.md")[-2:]
    with served(serving, secured) as (port, _):
        scoring = scoring.replace(":50051", f":{port}")
        done = run(scoring, secured)
        assert done.returncode == 0, done.stderr
        assert "1.0" in done.stdout
        without = re.sub(r"--tls-(certificate|key) \S+ ", "", scoring) + " --deadline-s 3"
        assert run(without, secured).returncode == 1


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_commands_of_the_observability_page_serve(home: Path, number: int) -> None:
    served_by = commands("observability.md")
    assert len(served_by) == 3
    with served(served_by[number], home) as (port, process):
        score = f".venv/bin/assay score docs/three_apples.png --class apple --count 3 --target localhost:{port}"
        assert run(score, home).returncode == 0
        process.terminate()
        assert process.wait(30) == 0
    log = (home / "log").read_text()
    if number == 0:
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        assert any("stopping" in line["message"] for line in lines)
    elif number == 2:
        assert '"name": "model"' in log
        assert '"name": "assay.v1.RewardService/Score"' in log


def test_the_page_names_every_metric() -> None:
    text = (ROOT / "docs" / "observability.md").read_text()
    for family in Metrics().registry.collect():
        if family.name.startswith("assay_"):
            assert f"`{family.name}{'_total' if family.type == 'counter' else ''}`" in text
