"""`assay generate --score spatial` on Ray loses a worker, then itself, then Ray's head; its files are those of one
process."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from brightness_judge import LEFT, Brightness
from tiny_klein import write_planner

from assay.testing import serve_in_background

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]  # four runs, of which one waits for Ray to give up

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = [["add a cup", "remove it"], ["paint it"], [], ["move it"]] * 6
WAIT_S = 600


def start(home: Path, checkpoint: Path, output: str, *flags: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "assay.cli", "generate", "--planning_model", "planner", "--flux_ckpt", checkpoint]
    # So many steps that workers cannot be done with all samples before the silence of Ray's head is noticed.
    command += ["--num_inference_steps", "300", "--output_root", output, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment["RAY_TMPDIR"] = str(home / "ray")
    return subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def write_instructions(home: Path) -> None:
    """Of which every other sample tells a relation."""
    records = write_planner(home, INSTRUCTIONS)
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    for line in lines[::2]:
        line["relation"] = LEFT
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))


def processes_of_ray(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RAY_TMPDIR") == str(home / "ray") and process.pid != os.getpid():
                found.append(process)
    return found


def wait_until(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def done(home: Path) -> int:
    return len(list((home / "disturbed").rglob(".unit.json")))


def files(root: Path) -> dict[str, bytes]:
    paths = [path for path in root.rglob("*") if path.is_file() and path.name != "run.log"]
    shown = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    return {str(path.relative_to(root)): path.read_bytes() for path in shown}


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # Ray's sockets need short paths
    write_instructions(folder)
    yield folder
    for process in processes_of_ray(folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def scored() -> Iterator[list[str]]:
    """What asks for scores, and where."""
    with serve_in_background([Brightness()]) as judge:
        yield ["--score", "spatial", "--target", judge.target]


def test_files_are_those_of_an_undisturbed_run(home: Path, scored: list[str], tiny_klein: Path) -> None:
    flags = ["--engine", "ray", "--workers", "2", *scored]
    undisturbed = start(home, tiny_klein, "undisturbed", *scored)
    assert undisturbed.wait(WAIT_S) == 0, undisturbed.communicate()[1].decode()
    first = start(home, tiny_klein, "disturbed", *flags)
    wait_until(lambda: done(home) >= 2, first)
    worker = next(p for p in processes_of_ray(home) if "_WorkerProcess" in " ".join(p.cmdline()))
    worker.kill()
    wait_until(lambda: done(home) >= 6, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = start(home, tiny_klein, "disturbed", *flags)
    wait_until(lambda: done(home) >= 7, second)
    next(p for p in processes_of_ray(home) if p.name() == "gcs_server").kill()
    said = second.communicate(timeout=WAIT_S)[1].decode()
    assert second.returncode != 0
    assert "is gone; run the same command again" in said
    third = start(home, tiny_klein, "disturbed", *flags)
    assert third.wait(WAIT_S) == 0, third.communicate()[1].decode()
    assert files(home / "disturbed") == files(home / "undisturbed")
    log = (home / "disturbed/run.log").read_text()
    published = [line for line in log.splitlines() if " generate: done: " in line]
    names = [line.split("INFO ")[1].split(": done")[0] for line in published]
    assert len(names) == len(set(names)), "a sample was published twice"
    assert "WorkerDiedError" in log
    scores = json.loads(next((home / "disturbed").rglob("spatial_scores.json")).read_text())
    assert scores["views"] == {"with_relation": 12, "without_relation": 0, "without_reference": 0, "unscored": 0}
