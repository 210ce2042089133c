"""Batches on Ray lose workers, the driver, and Ray itself; what they leave in the end is what one process leaves."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine_doubles import do, leftovers, make_unit, outputs_below
from engine_processes import PYTHON_PATH, Run, wait_until

from pipelines.engine.ledger import Ledger, State

pytest.importorskip("ray")
pytestmark = pytest.mark.ray

UNITS: list[dict[str, Any]] = [{"item": f"item-{number:02}", "work_s": 0.005} for number in range(20)]
StartRun = Callable[..., Run]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its files and sockets, whose paths must be short. Its processes end with the test."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    for process in ray_processes(folder):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(lambda: not ray_processes(folder), "Ray's processes are gone")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start_run(tmp_path: Path, ray_folder: Path) -> Iterator[StartRun]:
    started: list[Run] = []

    def start(units: list[dict[str, Any]] = UNITS, environment: dict[str, str] | None = None, **settings: Any) -> Run:
        environment = {"RAY_ADDRESS": "127.0.0.1:9", **(environment or {}), "RAY_TMPDIR": str(ray_folder)}
        started.append(Run(tmp_path / "run", units, environment=environment, **{"workers": 2, **settings}))
        return started[-1]

    yield start
    for run in started:
        run.end()


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The outputs of a run of all units in one process."""
    root = tmp_path_factory.mktemp("in_process")
    do([make_unit(**unit) for unit in UNITS], Ledger(root))
    return outputs_below(root)


def ray_processes(folder: Path) -> list[psutil.Process]:
    """Ray's processes that keep their files in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            told = [*process.cmdline(), process.environ().get("RAY_TMPDIR", "")]
            if process.pid != os.getpid() and any(str(folder) in word for word in told):
                found.append(process)
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def with_item(number: int, **told: Any) -> list[dict[str, Any]]:
    """All units, one of them told to misbehave."""
    return [{**unit, **told} if index == number else unit for index, unit in enumerate(UNITS)]


def slow() -> list[dict[str, Any]]:
    return [{**unit, "work_s": 3.0} for unit in UNITS]


def wait_for_the_first(run: Run) -> None:
    said = "done:"
    wait_until(lambda: run.process.poll() is not None or (run.log.exists() and said in run.log.read_text()), said)
    assert run.process.poll() is None, run.wait()[2]


def assert_all_done(run: Run, expected: dict[str, bytes]) -> None:
    ledger = Ledger(run.root)
    assert {ledger.state(make_unit(**unit)) for unit in UNITS} == {State.DONE}
    assert outputs_below(run.root) == expected
    assert leftovers(run.root) == []
    assert list(ledger.failures.iterdir()) == []


def test_a_worker_that_dies_once_costs_one_attempt(
    start_run: StartRun, in_process: dict[str, bytes], tmp_path: Path
) -> None:
    run = start_run(with_item(5, kill="once", trace=str(tmp_path / "trace")))
    assert run.report()["done"] == len(UNITS)
    assert (tmp_path / "trace").read_text() == "attempt\n" * 2
    assert "item-05 / draw: attempt 1 ended in WorkerDiedError: the process that did" in run.log.read_text()
    entry = Ledger(run.root).entry("plain/draw/item-05")
    assert entry is not None
    assert entry.attempt == 2
    assert_all_done(run, in_process)


def test_a_unit_that_kills_its_workers_fails_alone(start_run: StartRun, tmp_path: Path) -> None:
    units = with_item(5, kill="always", trace=str(tmp_path / "trace"))
    run = start_run(units, retries=1)
    report = run.report()
    assert (report["done"], report["failed"]) == (len(UNITS) - 1, 1)
    assert (tmp_path / "trace").read_text() == "attempt\n" * 2
    ledger = Ledger(run.root)
    failure = ledger.failure(make_unit(**units[5]).name)
    assert failure is not None
    assert (failure.error_class, failure.attempts) == ("WorkerDiedError", 2)
    assert failure.message.startswith("the process that did this unit died")
    assert "drawing item-05" in (ledger.failures / failure.log).read_text()
    assert leftovers(run.root) == []


def test_errors_of_units_are_those_of_the_unit(start_run: StartRun) -> None:
    units = with_item(5, fail="always")
    run = start_run(units)
    assert run.report()["failed"] == 1
    failure = Ledger(run.root).failure(make_unit(**units[5]).name)
    assert failure is not None
    assert (failure.error_class, failure.attempts) == ("ValueError", 3)
    assert "engine_doubles.py" in failure.traceback


def test_a_killed_driver_takes_ray_with_it_and_the_next_run_ends_the_work(
    start_run: StartRun, in_process: dict[str, bytes], ray_folder: Path
) -> None:
    first = start_run(slow())
    wait_for_the_first(first)
    first.send(signal.SIGKILL)
    first.wait()
    wait_until(lambda: not ray_processes(ray_folder), "Ray has followed its driver")
    second = start_run()
    report = second.report()
    assert report["skipped"] >= 1
    assert report["done"] + report["skipped"] == len(UNITS)
    assert_all_done(second, in_process)


def test_a_driver_that_is_asked_to_end_leaves_nothing_claimed(start_run: StartRun, ray_folder: Path) -> None:
    run = start_run(slow())
    wait_for_the_first(run)
    run.send(signal.SIGTERM)
    assert run.wait()[0] != 0
    assert [name for name in leftovers(run.root) if name.endswith(".lease")] == []
    wait_until(lambda: not ray_processes(ray_folder), "Ray has followed its driver")


@pytest.mark.parametrize(
    ("victims", "says"),
    [
        (("gcs_server", "raylet"), r"BatchStoppedError: the head of the Ray cluster, \S+:\d+, is gone; run the same"),
        (("raylet",), r"BatchStoppedError: all machines of the Ray cluster are gone; run the same command again"),
    ],
)
def test_a_run_whose_ray_is_gone_ends_and_says_so(
    start_run: StartRun, in_process: dict[str, bytes], ray_folder: Path, victims: tuple[str, ...], says: str
) -> None:
    run = start_run(slow(), retries=9)
    wait_for_the_first(run)
    for process in ray_processes(ray_folder):
        if process.name() in victims:
            process.kill()
    code, _, stderr = run.wait()
    assert re.search(says, stderr), stderr
    assert code == 2
    assert [name for name in leftovers(run.root) if name.endswith(".lease")] == []
    again = start_run()
    report = again.report()
    assert report["done"] + report["skipped"] == len(UNITS)
    assert_all_done(again, in_process)


def test_a_worker_that_cannot_be_loaded_ends_the_run_with_its_reason(start_run: StartRun) -> None:
    run = start_run(load="nothing")
    code, _, stderr = run.wait()
    assert code == 1
    assert "FileNotFoundError: no weights for cpu" in stderr
    assert list((run.root / ".assay" / "failures").iterdir()) == []
    assert leftovers(run.root) == []


def test_a_lost_machine_of_a_cluster_does_not_keep_the_others_waiting(
    start_run: StartRun, in_process: dict[str, bytes], ray_folder: Path
) -> None:
    """The actors that lived there are to start anew, and find no place; no unit may wait for them."""
    open_to_all = {"RAY_AUTH_MODE": "disabled"}
    environment = {**os.environ, **open_to_all, "RAY_TMPDIR": str(ray_folder), "PYTHONPATH": PYTHON_PATH}

    def ray(*words: str) -> str:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--num-cpus=1", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=100).stdout

    def raylets() -> set[int]:
        return {process.pid for process in ray_processes(ray_folder) if process.name() == "raylet"}

    said = ray("--head", "--port=0", "--include-dashboard=false", "--disable-usage-stats")
    address = said.split("--address='")[1].split("'")[0]
    first = raylets()
    ray(f"--address={address}")
    (second,) = raylets() - first
    run = start_run([{**unit, "work_s": 1.0} for unit in UNITS], open_to_all, ray_address=address)
    wait_for_the_first(run)
    psutil.Process(second).kill()
    assert run.report()["done"] == len(UNITS)
    assert_all_done(run, in_process)
