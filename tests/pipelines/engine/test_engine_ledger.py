"""What counts as done, and what does not."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_doubles import do, leftovers, make_unit
from filelock import SoftFileLease

from assay.errors import ConfigError
from pipelines.engine import ledger as ledger_module
from pipelines.engine.ledger import ENTRY, Entry, Failure, Ledger, State, describe_outputs, new_entry, try_acquire


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "run")


def publish(ledger: Ledger, unit_name: str = "a", **files: str) -> Path:
    """Publish files as a unit's outputs; the folder they lie in."""
    unit = make_unit(unit_name)
    attempt = ledger.new_attempt(unit)
    for name, text in (files or {"one": "1" * 50, "two": "2" * 60}).items():
        (attempt / "outputs" / name).write_text(text)
    ledger.publish(unit, attempt, new_entry(unit, tuple(describe_outputs(attempt / "outputs")), 0.5, 1))
    return ledger.folder(unit)


def failure_of(ledger: Ledger, unit_name: str = "a", **inputs: int) -> Failure:
    unit = make_unit(unit_name, inputs=inputs)
    failure = Failure(*unit.key, unit.input_hash, "ValueError", "why", "where", 3, "host", f"{unit.name}.log")
    ledger.record_failure(unit, failure, "it was said")
    return failure


def claim_and_die(path: str) -> None:
    """Leave the lease of a process that is dead."""
    claim = f"lease = filelock.SoftFileLease({path!r}, lease_duration=60.0); lease.acquire(); os._exit(0)"
    subprocess.run([sys.executable, "-c", f"import filelock, os; {claim}"], check=True, timeout=60)


def test_a_unit_that_nobody_has_done_is_missing(ledger: Ledger) -> None:
    assert ledger.state(make_unit("a")) is State.MISSING
    assert ledger.state(make_unit("a").planned()) is State.MISSING


def test_a_published_unit_is_done_and_its_entry_says_how(ledger: Ledger) -> None:
    folder = publish(ledger, one="1")
    unit = make_unit("a")
    entry = ledger.entry(unit.folder)
    assert ledger.state(unit) is ledger.state(unit.planned()) is State.DONE
    assert isinstance(entry, Entry)
    assert (entry.item, entry.variant, entry.stage) == unit.key
    assert (entry.input_hash, entry.inputs, entry.attempt) == (unit.input_hash, {"size": 2000}, 1)
    assert [(output.path, output.size) for output in entry.outputs] == [("one", 1)]
    assert sorted(path.name for path in folder.iterdir()) == [ENTRY, "one"]


def test_other_inputs_leave_it_changed(ledger: Ledger) -> None:
    publish(ledger)
    assert ledger.state(make_unit("a", inputs={"steps": 2})) is State.CHANGED


def test_a_truncated_output_is_noticed(ledger: Ledger) -> None:
    folder = publish(ledger)
    os.truncate(folder / "two", 59)
    assert ledger.state(make_unit("a")) is State.DAMAGED


def test_a_missing_output_is_noticed(ledger: Ledger) -> None:
    (publish(ledger) / "two").unlink()
    assert ledger.state(make_unit("a")) is State.DAMAGED


def test_an_output_altered_at_the_same_size_is_noticed(ledger: Ledger) -> None:
    path = publish(ledger) / "two"
    path.write_text("3" * 60)
    os.utime(path, ns=(0, 12345))
    assert ledger.state(make_unit("a")) is State.DAMAGED


def test_an_output_that_was_only_touched_stays_done(ledger: Ledger) -> None:
    folder = publish(ledger)
    for path in folder.iterdir():
        os.utime(path, ns=(0, 12345))
    assert ledger.state(make_unit("a")) is State.DONE


def test_a_copied_run_is_still_done(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger)
    shutil.copytree(ledger.root, tmp_path / "copy", copy_function=shutil.copyfile)
    assert Ledger(tmp_path / "copy").state(make_unit("a")) is State.DONE


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"outputs": []}', '{"outputs": [{}]}', "\xff", "7"])
def test_an_entry_that_cannot_be_read_is_no_entry(ledger: Ledger, text: str) -> None:
    (publish(ledger) / ENTRY).write_bytes(text.encode("latin-1"))
    assert ledger.entry(make_unit("a").folder) is None
    assert ledger.state(make_unit("a")) is State.DAMAGED


def test_outputs_that_nobody_entered_are_damaged(ledger: Ledger) -> None:
    ledger.folder(make_unit("a")).mkdir(parents=True)
    assert ledger.state(make_unit("a")) is State.DAMAGED


def test_a_failure_counts_for_the_inputs_it_happened_with(ledger: Ledger) -> None:
    failure = failure_of(ledger)
    assert ledger.failure(make_unit("a").name) == failure
    assert ledger.state(make_unit("a")) is State.FAILED
    assert ledger.state(make_unit("a", inputs={"steps": 2})) is State.MISSING
    assert (ledger.failures / failure.log).read_text() == "it was said"


def test_a_failure_after_a_change_is_what_shows(ledger: Ledger) -> None:
    publish(ledger)
    failure_of(ledger, steps=2)
    assert ledger.state(make_unit("a", inputs={"steps": 2})) is State.FAILED
    assert ledger.state(make_unit("a")) is State.DONE


def test_a_failure_that_cannot_be_read_is_none(ledger: Ledger) -> None:
    (ledger.failures / f"{make_unit('a').name}.json").write_text('{"item": "a"')
    assert ledger.state(make_unit("a")) is State.MISSING


def test_publishing_takes_the_failure_away(ledger: Ledger) -> None:
    failure_of(ledger)
    publish(ledger)
    assert list(ledger.failures.iterdir()) == []


def test_a_process_killed_while_it_publishes_leaves_no_failure_of_a_finished_unit(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure_of(ledger)
    rename = Path.rename

    def rename_and_die(path: Path, target: Path) -> Path:
        renamed = rename(path, target)
        if path.name == "outputs":
            raise KeyboardInterrupt
        return renamed

    monkeypatch.setattr(Path, "rename", rename_and_die)
    with pytest.raises(KeyboardInterrupt):
        publish(ledger)
    assert ledger.state(make_unit("a")) is State.DONE
    assert list(ledger.failures.iterdir()) == []


def test_nothing_of_an_older_folder_stays_in_a_newer_one(ledger: Ledger) -> None:
    publish(ledger, one="1", old="2")
    folder = publish(ledger, one="3")
    assert sorted(path.name for path in folder.iterdir()) == [ENTRY, "one"]
    assert (folder / "one").read_text() == "3"
    assert ledger.state(make_unit("a")) is State.DONE


def test_publishing_replaces_a_file_that_stands_in_its_place(ledger: Ledger) -> None:
    target = ledger.folder(make_unit("a"))
    target.parent.mkdir(parents=True)
    target.write_text("in the way")
    publish(ledger, one="1")
    assert ledger.state(make_unit("a")) is State.DONE


def test_names_that_start_with_a_dot_are_no_outputs(tmp_path: Path) -> None:
    for name in ("b/.cache/x", ".hidden", "b/c", "a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [output.path for output in describe_outputs(tmp_path)] == ["a", "b/c"]


def test_a_new_attempt_clears_what_dead_ones_left_and_nothing_of_other_units(ledger: Ledger) -> None:
    old, other = ledger.new_attempt(make_unit("a")), ledger.new_attempt(make_unit("b"))
    (old / "outputs" / "half").write_text("done")
    new = ledger.new_attempt(make_unit("a"))
    assert not old.exists()
    assert other.exists()
    assert list((new / "outputs").iterdir()) == []


def test_a_lease_is_one_runs_at_a_time(ledger: Ledger) -> None:
    first, second, other = (ledger.lease(make_unit(item)) for item in ("a", "a", "b"))
    assert try_acquire(first)
    assert not try_acquire(second)
    assert try_acquire(other)
    first.release()
    assert try_acquire(second)
    second.release()
    other.release()
    assert leftovers(ledger.root) == []


def test_the_lease_of_a_dead_process_is_free_at_once(ledger: Ledger) -> None:
    path = ledger.lease(make_unit("a")).lock_file
    claim_and_die(path)
    assert Path(path).exists()
    lease = ledger.lease(make_unit("a"))
    assert try_acquire(lease)
    lease.release()


def test_an_empty_lease_file_does_not_block_its_unit_for_ever(ledger: Ledger) -> None:
    """A power cut, or a kill between creating the file and writing it, leaves it empty: it names no process."""
    lease = ledger.lease(make_unit("a"))
    path = Path(lease.lock_file)
    path.touch()
    assert not try_acquire(lease)
    assert path.exists()  # its process may be about to write it
    long_ago = time.time() - ledger_module.EMPTY_S - 1
    os.utime(path, (long_ago, long_ago))
    assert try_acquire(lease) or try_acquire(lease)
    lease.release()


def test_a_lease_that_another_took_over_is_not_held(ledger: Ledger) -> None:
    lease = ledger.lease(make_unit("a"))
    assert not ledger_module.is_held(lease)
    assert try_acquire(lease)
    assert ledger_module.is_held(lease)
    Path(lease.lock_file).unlink()
    assert not ledger_module.is_held(lease)  # at once, not at the next heartbeat
    successor = ledger.lease(make_unit("a"))
    assert try_acquire(successor)
    assert not ledger_module.is_held(lease)
    lease.release()
    assert ledger_module.is_held(successor)
    successor.release()


def test_what_dead_runs_left_of_finished_units_is_swept_up(ledger: Ledger) -> None:
    """A run killed right after it published leaves its attempt and its lease, and nobody asks for them again."""
    publish(ledger, "finished")
    ledger.new_attempt(make_unit("finished"))
    at_work = ledger.lease(make_unit("at work"))
    assert try_acquire(at_work)
    ledger.new_attempt(make_unit("at work"))
    path = ledger.lease(make_unit("finished")).lock_file
    claim_and_die(path)
    do([make_unit("finished"), make_unit("other")], ledger)
    assert all(name.startswith("draw-at-work") for name in leftovers(ledger.root))
    assert len(leftovers(ledger.root)) == 2
    at_work.release()


def test_heartbeats_end_with_their_leases(ledger: Ledger) -> None:
    lease: SoftFileLease = ledger.lease(make_unit("a"))
    assert try_acquire(lease)
    lease.release()
    assert lease.token is None
    assert lease.compromise is None


@pytest.mark.parametrize("place", ["run", "run/.assay", "run/.assay/leases"])
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to the output folder .*run: (File exists|Not a directory)"):
        Ledger(tmp_path / "run")


def test_a_full_disk_is_no_reason_to_write_half_an_entry(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = publish(ledger, one="1")
    before = (folder / ENTRY).read_bytes()

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ledger_module, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        publish(ledger, one="2")
    assert (folder / ENTRY).read_bytes() == before
    assert json.loads(before)["outputs"][0]["size"] == 1
    assert ledger.state(make_unit("a")) is State.DONE
