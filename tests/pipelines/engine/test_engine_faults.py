"""Runs in processes of their own are killed, stopped, starved and set against each other; what they leave in the end is
what an undisturbed run leaves."""

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_doubles import do, leftovers, make_unit, outputs_below
from engine_processes import Run, wait_until

from pipelines.engine.ledger import ENTRY, Ledger, State

UNITS: list[dict[str, Any]] = [{"item": f"item-{number:02}", "work_s": 0.005} for number in range(40)]
StartRun = Callable[..., Run]


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[StartRun]:
    started: list[Run] = []

    def start(units: list[dict[str, Any]] = UNITS, *, root: Path = tmp_path / "run", **settings: Any) -> Run:
        started.append(Run(root, units, **settings))
        return started[-1]

    yield start
    for run in started:
        with contextlib.suppress(ProcessLookupError):
            run.send(signal.SIGCONT)
        run.end()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The outputs of an undisturbed run of all units."""
    root = tmp_path_factory.mktemp("undisturbed")
    do([make_unit(**unit) for unit in UNITS], Ledger(root))
    return outputs_below(root)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small disk of its own; calling it again with a size changes that."""
    disk = tmp_path / "disk"

    def mount_tmpfs(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if os.path.ismount(disk):
            command = ["mount", "-o", f"remount,{options}", str(disk)]
        disk.mkdir(exist_ok=True)
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("only root can mount a disk of its own to fill, and here it may not")
        return disk

    yield mount_tmpfs
    if os.path.ismount(disk):
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def done_in(run: Run) -> Counter[str]:
    """How often each unit was published, by the log of all runs on the folder."""
    said = run.log.read_text() if run.log.exists() else ""
    return Counter(re.findall(r"^plain / (\S+) / draw: done:", said, re.MULTILINE))


def num_published(run: Run) -> int:
    return len(list(run.root.glob(f"plain/draw/*/{ENTRY}")))


def assert_all_done(run: Run, expected: dict[str, bytes], units: list[dict[str, Any]] = UNITS) -> None:
    """Every unit has a valid entry, its outputs are those of an undisturbed run, and nothing else is there."""
    ledger = Ledger(run.root)
    assert {ledger.state(make_unit(**unit)) for unit in units} == {State.DONE}
    assert num_published(run) == len(units)
    assert outputs_below(run.root) == expected
    assert leftovers(run.root) == []
    assert list(ledger.failures.iterdir()) == []


def test_runs_killed_at_any_moment_end_in_what_one_run_gives(
    start_run: StartRun, undisturbed: dict[str, bytes]
) -> None:
    moments = random.Random(7)
    killed = 0
    while True:
        run = start_run()
        aim = num_published(run) + moments.randint(1, 12)
        wait_until(
            lambda run=run, aim=aim: num_published(run) >= aim or run.process.poll() is not None, "some are done"
        )
        time.sleep(moments.uniform(0, 0.02))
        if run.process.poll() is None:
            run.send(signal.SIGKILL)
        if run.wait()[0] == 0:
            break
        killed += 1
    assert killed >= 1
    assert_all_done(run, undisturbed)
    assert max(done_in(run).values()) == 1
    assert sum(done_in(run).values()) >= len(UNITS) - killed  # a kill can fall between publishing and saying so


def test_a_run_killed_within_a_unit_does_it_again(start_run: StartRun, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    units = [{"item": "a"}, {"item": "b", "kill": "once", "trace": str(trace)}, {"item": "c"}]
    first = start_run(units)
    assert first.wait()[0] == -signal.SIGKILL
    assert len(leftovers(first.root)) == 2
    second = start_run(units)
    assert second.report()["skipped"] == 1
    assert trace.read_text() == "attempt\n" * 2
    do([make_unit(item) for item in "abc"], Ledger(tmp_path / "undisturbed"))
    assert_all_done(second, outputs_below(tmp_path / "undisturbed"), units)


def test_two_runs_on_one_folder_share_the_work(start_run: StartRun, undisturbed: dict[str, bytes]) -> None:
    runs = [start_run(), start_run()]
    reports = [run.report() for run in runs]
    assert sum(report["done"] for report in reports) == len(UNITS)
    assert all(sum(report.values()) == len(UNITS) for report in reports)
    assert all(report["failed"] == report["blocked"] == report["left"] == 0 for report in reports)
    assert set(done_in(runs[0]).values()) == {1}
    assert_all_done(runs[0], undisturbed)


def test_what_a_killed_run_held_is_taken_up_by_those_beside_it(
    start_run: StartRun, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Its lease lasts a minute, and they need not wait for that: its process is dead."""
    gate = tmp_path / "gate"
    dying = start_run([{**UNITS[0], "gate": str(gate)}, *UNITS[1:]])
    wait_until(
        lambda: len(leftovers(dying.root)) == 2 if (dying.root / ".assay/attempts").exists() else False, "at work"
    )
    others = [start_run(), start_run()]
    wait_until(lambda: num_published(dying) == len(UNITS) - 1, "all others are done")
    assert all(run.process.poll() is None for run in others)
    dying.send(signal.SIGKILL)
    dying.wait()  # a dead process counts as alive until its parent, these tests, has taken note
    reports = [run.report() for run in others]
    assert sum(report["done"] for report in reports) == len(UNITS)
    assert set(done_in(dying).values()) == {1}
    assert_all_done(dying, undisturbed)


def test_a_run_that_was_stopped_too_long_does_not_publish_over_another(
    start_run: StartRun, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    gate, short = tmp_path / "gate", {"lease_s": 1.5}
    units = [{**UNITS[0], "gate": str(gate)}, *UNITS[1:]]
    stopped = start_run(units, **short)
    wait_until(
        lambda: len(leftovers(stopped.root)) == 2 if (stopped.root / ".assay/attempts").exists() else False, "at work"
    )
    stopped.send(signal.SIGSTOP)
    gate.touch()
    successor = start_run(units, **short)
    assert successor.report()["done"] == len(UNITS)
    entry = stopped.root / "plain" / "draw" / UNITS[0]["item"] / ENTRY
    before = entry.stat()
    stopped.send(signal.SIGCONT)
    report = stopped.report()
    assert (report["done"], report["elsewhere"]) == (0, len(UNITS))
    after = entry.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "lost its lease; this attempt's outputs are dropped" in stopped.log.read_text()
    assert_all_done(stopped, undisturbed)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_run_that_is_asked_to_end_leaves_nothing_claimed(
    start_run: StartRun, tmp_path: Path, number: int, code: int
) -> None:
    run = start_run([UNITS[0], {**UNITS[1], "gate": str(tmp_path / "gate")}, UNITS[2]])
    wait_until(lambda: num_published(run) == 1 and len(leftovers(run.root)) == 2, "at work at the second unit")
    run.send(number)
    assert run.wait()[0] == code
    assert leftovers(run.root) == []
    assert list((run.root / ".assay" / "failures").iterdir()) == []
    assert start_run(UNITS[:3]).report() == {
        **dict.fromkeys(("elsewhere", "failed", "blocked", "left"), 0),
        **{"done": 2, "skipped": 1},
    }


def test_a_full_disk_stops_the_run_and_more_space_lets_it_end(
    start_run: StartRun, mount: Callable[..., Path], tmp_path: Path
) -> None:
    units = [{"item": f"item-{number}", "inputs": {"size": 30_000}} for number in range(20)]
    root = mount("size=400k") / "run"
    log = str(tmp_path / "run.log")
    run = start_run(units, root=root, log=log, settings_folder=tmp_path)
    code, _, stderr = run.wait()
    assert code == 2
    number = num_published(run)
    assert 0 < number < 20
    assert re.search(
        rf"BatchStoppedError: no space left for {root} .*: {20 - number} units are left; free some", stderr
    )
    assert leftovers(root) == []
    ledger = Ledger(root)
    states = Counter(ledger.state(make_unit(**unit)) for unit in units)
    assert states == {State.DONE: number, State.MISSING: 20 - number}
    with contextlib.suppress(OSError), (root.parent / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1024))
    (root / ".assay" / "attempts" / f"{make_unit('dead').name}-1").mkdir()  # what a killed run left
    code, _, stderr = start_run(units, root=root, log=log, settings_folder=tmp_path).wait()
    assert code == 2
    assert f"BatchStoppedError: no space left for {root} (0 MiB free): {20 - number} units are left" in stderr
    mount("size=8m")
    again = start_run(units, root=root, log=log, settings_folder=tmp_path)
    assert again.report()["done"] == 20 - number
    do([make_unit(**unit) for unit in units], Ledger(tmp_path / "undisturbed"))
    assert_all_done(again, outputs_below(tmp_path / "undisturbed"), units)


def test_a_truncated_output_is_made_again(start_run: StartRun, undisturbed: dict[str, bytes]) -> None:
    run = start_run()
    run.report()
    for item in ("item-03", "item-20"):
        os.truncate(run.root / "plain" / "draw" / item / "parts" / "content.bin", 1000)
    assert start_run().report()["done"] == 2
    assert outputs_below(run.root) == undisturbed


def test_a_read_only_disk_is_refused_by_name(start_run: StartRun, mount: Callable[..., Path], tmp_path: Path) -> None:
    disk = mount("size=1m")
    (disk / "old").mkdir()
    Ledger(disk / "old")
    mount("ro")
    for root in (disk / "old", disk / "new"):
        code, _, stderr = start_run(root=root, settings_folder=tmp_path, log=str(tmp_path / "log")).wait()
        assert code == 2
        assert f"ConfigError: cannot write to the output folder {root}: " in stderr


def test_a_file_in_the_place_of_the_root_is_refused_by_name(start_run: StartRun, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    code, _, stderr = start_run().wait()
    assert code == 2
    assert f"ConfigError: cannot write to the output folder {tmp_path / 'run'}: " in stderr
