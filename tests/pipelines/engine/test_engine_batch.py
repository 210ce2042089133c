"""The loop in one process: what is done, in which order, how often, and what is said of what was not."""

import errno
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_doubles import Drawer, do, leftovers, load_nothing, make_unit, outputs_below, stages
from engine_processes import wait_until

from assay.errors import ConfigError
from pipelines.engine.batch import BatchOptions, BatchReport, BatchStoppedError, run_batch
from pipelines.engine.executors import InProcess
from pipelines.engine.ledger import Ledger, State, describe_outputs, new_entry, try_acquire
from pipelines.engine.stage import Stage
from pipelines.engine.unit import Unit


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "run")


class Recorder(Drawer):
    """Says through `order` what it was asked to do."""

    order: list[str]

    def run(self, unit: Unit, workplace: Any) -> None:
        self.order.append(str(unit))
        super().run(unit, workplace)


@pytest.fixture
def order() -> list[str]:
    Recorder.order = []
    return Recorder.order


def recorded(*names: str) -> dict[str, Stage]:
    return {name: Stage(name, lambda device: Recorder()) for name in names or ("draw", "finish")}


def counts(**given: int) -> BatchReport:
    return BatchReport(**{**dict.fromkeys(("done", "skipped", "elsewhere", "failed", "blocked", "left"), 0), **given})


def chain(item: str, **locations: Any) -> list[Unit]:
    """Two units; the second needs the first, which misbehaves as told."""
    first = make_unit(item, "draw", **locations)
    return [first, make_unit(item, "finish", needs=[first])]


def test_units_are_done_in_the_order_given(ledger: Ledger, order: list[str]) -> None:
    units = [make_unit(item) for item in "dacb"]
    assert do(units, ledger, recorded()) == counts(done=4)
    assert order == [str(unit) for unit in units]
    assert leftovers(ledger.root) == []


def test_a_signal_within_the_claim_of_a_unit_leaves_nothing_claimed(tmp_path: Path) -> None:
    class Interrupted(Ledger):
        def new_attempt(self, unit: Unit) -> Path:
            super().new_attempt(unit)
            raise KeyboardInterrupt

    ledger = Interrupted(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        do([make_unit("a")], ledger)
    assert leftovers(ledger.root) == []


def test_what_is_done_is_skipped(ledger: Ledger, order: list[str]) -> None:
    units = [make_unit(item) for item in "abc"]
    do(units[:2], ledger, recorded())
    report = do(units, ledger, recorded())
    assert report == counts(done=1, skipped=2)
    assert report.complete
    assert len(order) == 3


@pytest.mark.parametrize(
    "twice",
    [
        [make_unit("a"), make_unit("b"), make_unit("a")],
        [make_unit("a"), replace(make_unit("b"), folder=make_unit("a").folder)],
        [make_unit("a"), replace(make_unit("a"), folder="elsewhere")],
    ],
)
def test_two_units_that_would_overwrite_each_other_are_refused(ledger: Ledger, twice: list[Unit]) -> None:
    with pytest.raises(ConfigError, match=r"plain / [ab] / draw occurs twice, or another unit has its folder"):
        do(twice, ledger)
    assert leftovers(ledger.root) == []


def test_nothing_to_do_is_complete_and_loads_no_worker(ledger: Ledger) -> None:
    assert do([], ledger, {}).complete
    do([make_unit("a")], ledger)
    assert do([make_unit("a")], ledger, {"draw": Stage("draw", load_nothing)}) == counts(skipped=1)


def test_a_unit_waits_for_what_it_needs_whatever_the_order(ledger: Ledger, order: list[str]) -> None:
    first, second = chain("a")
    assert do([second, first], ledger, recorded()) == counts(done=2)
    assert order == [str(first), str(second)]
    assert b'{"draw": [".unit.json", "about.json", "parts"]}' in (ledger.folder(second) / "about.json").read_bytes()


def test_a_need_that_was_done_before_is_enough(ledger: Ledger) -> None:
    first, second = chain("a")
    do([first], ledger)
    assert do([second], ledger) == counts(done=1)


def test_a_need_that_nobody_has_done_blocks_and_does_not_wait_for_ever(ledger: Ledger) -> None:
    assert do(chain("a")[1:], ledger) == counts(blocked=1)


def test_a_need_that_failed_blocks_everything_above_it(ledger: Ledger) -> None:
    first, second = chain("a", fail="permanent")
    third = make_unit("a", "draw", variant="above", needs=[second])
    report = do([first, second, third, *chain("b")], ledger)
    assert report == counts(done=2, failed=1, blocked=2)
    assert not report.complete
    assert [ledger.state(unit) for unit in (first, second, third)] == [State.FAILED, State.MISSING, State.MISSING]


def test_workers_of_two_stages_are_not_loaded_at_once(ledger: Ledger) -> None:
    loaded: list[str] = []
    both = {name: Stage(name, lambda device, name=name: loaded.append(name) or Drawer()) for name in ("draw", "finish")}
    units = [*chain("a"), *chain("b")]
    do([*units[::2], *units[1::2]], ledger, both)
    assert loaded == ["draw", "finish"]


def test_an_error_that_passes_is_tried_again_at_once(ledger: Ledger, order: list[str]) -> None:
    units = [make_unit("a", fail_times=2), make_unit("b")]
    assert do(units, ledger, recorded()) == counts(done=2)
    assert order == [str(units[0])] * 3 + [str(units[1])]
    entry = ledger.entry(units[0].folder)
    assert entry is not None
    assert entry.attempt == 3
    assert list(ledger.failures.iterdir()) == []


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (2, 3)])
def test_an_error_that_stays_is_given_up(ledger: Ledger, order: list[str], retries: int, attempts: int) -> None:
    assert do([make_unit("a", fail="always")], ledger, recorded(), retries=retries) == counts(failed=1)
    assert len(order) == attempts
    failure = ledger.failure(make_unit("a").name)
    assert failure is not None
    assert failure.attempts == attempts


def test_a_unit_error_is_not_tried_again(ledger: Ledger, order: list[str]) -> None:
    assert do([make_unit("a", fail="permanent")], ledger, recorded()) == counts(failed=1)
    assert len(order) == 1


def test_a_failure_says_what_where_and_after_which_words(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    unit = make_unit("a", fail="always")
    with caplog.at_level(logging.INFO, "test.engine"):
        do([unit], ledger)
    failure = ledger.failure(unit.name)
    assert failure is not None
    assert (failure.item, failure.variant, failure.stage) == unit.key
    assert failure.input_hash == unit.input_hash
    assert (failure.error_class, failure.message) == ("ValueError", "attempt 3 at a was told to fail")
    assert "engine_doubles.py" in failure.traceback
    assert failure.traceback.rstrip().endswith("ValueError: attempt 3 at a was told to fail")
    assert (ledger.failures / failure.log).read_text().rstrip().endswith("INFO drawing a")
    assert "plain / a / draw: failed: ValueError: attempt 3 at a was told to fail" in caplog.messages
    assert {record.variant for record in caplog.records} == {"plain"}  # type: ignore[attr-defined]


def test_a_failed_unit_is_tried_by_the_next_run_and_its_record_goes(ledger: Ledger) -> None:
    do([make_unit("a", fail="always")], ledger)
    assert do([make_unit("a")], ledger) == counts(done=1)
    assert ledger.state(make_unit("a")) is State.DONE
    assert list(ledger.failures.iterdir()) == []


def test_other_units_go_on_after_a_failure(ledger: Ledger) -> None:
    units = [make_unit("a"), make_unit("b", fail="permanent"), make_unit("c")]
    assert do(units, ledger) == counts(done=2, failed=1)


def test_fail_fast_leaves_the_rest(ledger: Ledger) -> None:
    units = [make_unit("a"), make_unit("b", fail="permanent"), make_unit("c"), make_unit("d")]
    report = do(units, ledger, continue_on_error=False)
    assert report == counts(done=1, failed=1, left=2)
    assert not report.complete


def test_outputs_that_the_stage_refuses_are_not_published(ledger: Ledger) -> None:
    unit = make_unit("a", refused=True)
    assert do([unit], ledger) == counts(failed=1)
    assert not ledger.folder(unit).exists()
    failure = ledger.failure(unit.name)
    assert failure is not None
    assert failure.error_class == "InvalidOutputError"


def test_redo_does_again_what_is_done(ledger: Ledger, order: list[str]) -> None:
    do([make_unit("a")], ledger, recorded())
    before = ledger.folder(make_unit("a")).stat().st_ino
    assert do([make_unit("a")], ledger, recorded(), redo=True) == counts(done=1)
    assert len(order) == 2
    assert ledger.folder(make_unit("a")).stat().st_ino != before


def test_redo_does_not_build_on_what_is_about_to_be_redone(ledger: Ledger, order: list[str]) -> None:
    first, second = chain("a")
    do([first, second], ledger)
    assert do([second, first], ledger, recorded(), redo=True) == counts(done=2)
    assert order == [str(first), str(second)]


def test_changed_inputs_upstream_redo_what_is_downstream(ledger: Ledger) -> None:
    do(chain("a"), ledger)
    first = make_unit("a", "draw", inputs={"size": 17})
    second = make_unit("a", "finish", needs=[first])
    assert [ledger.state(unit) for unit in (first, second)] == [State.CHANGED, State.CHANGED]
    assert do([first, second], ledger) == counts(done=2)
    assert (ledger.folder(first) / "parts" / "content.bin").stat().st_size == 17


def test_a_damaged_output_is_made_again_to_the_same_bytes(ledger: Ledger) -> None:
    units = [make_unit(item) for item in "abc"]
    do(units, ledger)
    before = outputs_below(ledger.root)
    path = ledger.folder(units[1]) / "parts" / "content.bin"
    os.truncate(path, 100)
    assert do(units, ledger) == counts(done=1, skipped=2)
    assert outputs_below(ledger.root) == before


def test_a_unit_that_another_run_does_meanwhile_is_left_to_it(ledger: Ledger) -> None:
    """Another run holds the unit when this one comes to it, and publishes it while this one waits."""
    unit, other = make_unit("a"), make_unit("b")
    lease = ledger.lease(unit)
    assert try_acquire(lease)

    def publish_and_release() -> None:
        wait_until(lambda: ledger.state(other) is State.DONE, "the other unit is done")
        attempt = ledger.new_attempt(unit)
        (attempt / "outputs" / "x").write_text("theirs")
        ledger.publish(unit, attempt, new_entry(unit, tuple(describe_outputs(attempt / "outputs")), 0.1, 1))
        lease.release()

    thread = threading.Thread(target=publish_and_release)
    thread.start()
    report = do([unit, other], ledger)
    thread.join()
    assert report == counts(done=1, elsewhere=1)
    assert (ledger.folder(unit) / "x").read_text() == "theirs"


def test_what_was_done_under_a_lost_lease_is_dropped(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """The other run takes over, publishes and ends, all before this process's heartbeat can notice."""
    unit = make_unit("a")

    class Overtaken(Drawer):
        def run(self, unit: Unit, workplace: Any) -> None:
            super().run(unit, workplace)
            successor = ledger.lease(unit)
            os.unlink(successor.lock_file)
            assert try_acquire(successor)
            theirs = workplace.folder.parent / "theirs"
            (theirs / "outputs").mkdir(parents=True)
            (theirs / "outputs" / "x").write_text("theirs")
            ledger.publish(unit, theirs, new_entry(unit, tuple(describe_outputs(theirs / "outputs")), 0.1, 1))
            successor.release()

    with caplog.at_level(logging.INFO, "test.engine"):
        report = do([unit], ledger, {"draw": Stage("draw", lambda device: Overtaken())})
    assert report == counts(elsewhere=1)
    assert (ledger.folder(unit) / "x").read_text() == "theirs"
    assert "plain / a / draw: lost its lease; this attempt's outputs are dropped" in caplog.messages


class FullDisk:
    """A worker that finds the disk full at item "b": `error` is how the library that writes says so."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, unit: Unit, workplace: Any) -> None:
        if unit.item == "b":
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    ],
)
def test_a_full_disk_stops_the_run_and_fails_no_unit(ledger: Ledger, error: Exception) -> None:
    units = [make_unit(item) for item in "abcd"]
    with pytest.raises(BatchStoppedError, match=rf"no space left for {ledger.root} .*: 3 units are left"):
        do(units, ledger, {"draw": Stage("draw", lambda device: FullDisk(error))})
    assert [ledger.state(unit) for unit in units] == [State.DONE] + [State.MISSING] * 3
    assert leftovers(ledger.root) == []
    assert list(ledger.failures.iterdir()) == []


def test_a_disk_that_fills_up_while_publishing_stops_the_run(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ledger, "publish", full)
    with pytest.raises(BatchStoppedError, match="3 units are left"):
        do([make_unit(item) for item in "abc"], ledger)
    assert leftovers(ledger.root) == []


def test_a_unit_that_breaks_the_device_stops_the_run_and_comes_last_in_the_next(
    ledger: Ledger, order: list[str]
) -> None:
    """Else the same command would meet the same unit first each time, and the others would never be done."""
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    units = [make_unit(item) for item in "abcd"]
    with pytest.raises(BatchStoppedError, match=r"plain / b / draw: RuntimeError: CUDA error: an illegal"):
        do(units, ledger, {"draw": Stage("draw", lambda device: FullDisk(error))})
    assert leftovers(ledger.root) == []
    assert [ledger.state(unit) for unit in units] == [State.DONE, State.FAILED, State.MISSING, State.MISSING]
    do(units, ledger, {"draw": Stage("draw", lambda device: Recorder())})
    assert order == ["plain / c / draw", "plain / d / draw", "plain / b / draw"]
    assert {ledger.state(unit) for unit in units} == {State.DONE}


def test_a_folder_that_cannot_be_written_is_its_units_error(ledger: Ledger) -> None:
    units = [make_unit("a"), replace(make_unit("b"), folder="x" * 300), make_unit("c")]
    report = do(units, ledger)
    assert (report.done, report.failed) == (2, 1)
    failure = ledger.failure(units[1].name)
    assert failure is not None
    assert "File name too long" in failure.message
    assert leftovers(ledger.root) == []


def test_a_folder_that_no_run_has_made_is_kept_when_it_stands_in_the_way(ledger: Ledger) -> None:
    unit = make_unit("a")
    ledger.folder(unit).mkdir(parents=True)
    (ledger.folder(unit) / "precious.png").write_text("somebody's")
    do([unit], ledger)
    assert ledger.state(unit) is State.DONE
    (kept,) = (ledger.root / ".assay" / "replaced").iterdir()
    assert (kept / "precious.png").read_text() == "somebody's"
    do([replace(unit, inputs={"other": 1})], ledger)
    assert len(list((ledger.root / ".assay" / "replaced").iterdir())) == 1, "what a run has made is just replaced"


def test_a_worker_that_cannot_be_loaded_ends_the_run_with_its_reason(ledger: Ledger) -> None:
    with pytest.raises(FileNotFoundError, match="no weights for cpu"):
        do([make_unit("a"), make_unit("b")], ledger, {"draw": Stage("draw", load_nothing)})
    assert leftovers(ledger.root) == []
    assert list(ledger.failures.iterdir()) == []


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_no_failure_of_the_unit(ledger: Ledger, interrupt: type[BaseException]) -> None:
    class Interrupted(Drawer):
        def run(self, unit: Unit, workplace: Any) -> None:
            raise interrupt

    with pytest.raises(interrupt):
        do([make_unit("a")], ledger, {"draw": Stage("draw", lambda device: Interrupted())})
    assert leftovers(ledger.root) == []
    assert list(ledger.failures.iterdir()) == []


def test_a_log_cut_off_within_a_letter_does_not_end_the_batch(ledger: Ledger) -> None:
    class Cut(Drawer):
        def run(self, unit: Unit, workplace: Any) -> None:
            (workplace.folder.parent / "log.txt").write_bytes("é".encode()[:1])
            super().run(unit, workplace)

    assert do([make_unit("a")], ledger, {"draw": Stage("draw", lambda device: Cut())}) == counts(done=1)


def test_the_progress_bar_counts_what_was_there(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    do([make_unit("a")], ledger, description="drawing")
    do([make_unit("a"), make_unit("b", fail="permanent")], ledger, description="drawing")
    last = capsys.readouterr().err.split("\r")[-1]
    assert "drawing: 100%" in last
    assert "2/2" in last
    assert "failed=1" in last


def test_stages_are_found_by_name(ledger: Ledger) -> None:
    assert set(stages()) == {"draw", "finish"}
    assert do([make_unit("a", "finish")], ledger) == counts(done=1)


def test_attempts_run_side_by_side_where_the_stage_allows_it(tmp_path: Path) -> None:
    """Four units that each wait until all four are under way: one after another they would wait for ever."""
    together = threading.Barrier(4, timeout=20)
    closed = []

    class Waits:
        def run(self, unit: Unit, workplace: Any) -> None:
            together.wait()
            (workplace.folder / "out.txt").write_text(unit.item)

        def close(self) -> None:
            closed.append(True)

    ledger = Ledger(tmp_path)
    units = [Unit(str(number), "v", "s", f"out/{number}", {}) for number in range(8)]
    executor = InProcess({"s": Stage("s", lambda device: Waits(), concurrency=4)}, "cpu")
    report = run_batch(units, ledger, executor, BatchOptions(), logging.getLogger("test"))
    executor.close()
    assert report.done == 8
    assert closed == [True]
    assert {unit.item: (tmp_path / unit.folder / "out.txt").read_text() for unit in units} == {
        unit.item: unit.item for unit in units
    }
