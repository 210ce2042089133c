"""What has been done: an entry beside the outputs of each unit, written by the same rename that publishes them.

    <root>/<unit.folder>/                the outputs
    <root>/<unit.folder>/.unit.json      their entry: input hash, size and digest of each, seconds, attempt, host
    <root>/.assay/failures/<name>.json   the error of a unit that failed, and .log what its attempt logged
    <root>/.assay/leases/                who is at work on what
    <root>/.assay/attempts/              work in progress; of no value once its process is gone
    <root>/.assay/plans/                 which units each variant has (see status.py)
    <root>/.assay/replaced/              folders without an entry that stood in a unit's place

A unit is done if its entry has the hash of its inputs and every output is there as the entry says. An output whose size
and modification time are the entry's is not read again; otherwise its digest decides.
"""

import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from assay.errors import ConfigError
from assay.files import digest_file, write_whole
from pipelines.engine.unit import PlannedUnit, Unit

ENTRY = ".unit.json"
#: A lease that is not renewed for so long counts as abandoned. One of a dead process on the same host does at once.
LEASE_S = 60.0
#: A lease file that is empty for so long will not be written any more.
EMPTY_S = 5.0


@dataclass(frozen=True)
class Output:
    """A published file: path relative to the unit's folder, size in bytes, SHA-256, modification time."""

    path: str
    size: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True)
class Entry:
    """What is recorded of a unit that is done."""

    item: str
    variant: str
    stage: str
    input_hash: str
    inputs: dict[str, Any]
    outputs: tuple[Output, ...]
    seconds: float
    attempt: int
    host: str


@dataclass(frozen=True)
class Failure:
    """What is recorded of a unit that failed: the error's class, its message, where it came from, its attempt's log."""

    item: str
    variant: str
    stage: str
    input_hash: str
    error_class: str
    message: str
    traceback: str
    attempts: int
    host: str
    log: str


class State(Enum):
    """Where a unit stands."""

    DONE = "done"
    MISSING = "missing"
    CHANGED = "changed"  # done once, with other inputs
    DAMAGED = "damaged"  # done, but outputs are missing or altered; or outputs without an entry
    FAILED = "failed"


class Ledger:
    """Reads and writes what has been done below one root folder.

    Raises:
        ConfigError: the root cannot be made or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._private = self.root / ".assay"
        for folder in (self.failures, self.plans, self._leases, self._attempts):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"cannot write to the output folder {root}: {error.strerror}") from error
        if not os.access(self._leases, os.W_OK):
            raise ConfigError(f"cannot write to the output folder {root}: permission denied")

    @property
    def failures(self) -> Path:
        return self._private / "failures"

    @property
    def plans(self) -> Path:
        return self._private / "plans"

    @property
    def _leases(self) -> Path:
        return self._private / "leases"

    @property
    def _attempts(self) -> Path:
        return self._private / "attempts"

    def folder(self, unit: Unit) -> Path:
        """Where the unit's outputs are published."""
        return self.root / unit.folder

    def state(self, unit: Unit | PlannedUnit) -> State:
        entry = self.entry(unit.folder)
        changed = entry is not None and entry.input_hash != unit.input_hash
        if entry and not changed and all(_is_whole(self.root / unit.folder / o.path, o) for o in entry.outputs):
            return State.DONE
        if (failure := self.failure(unit.name)) and failure.input_hash == unit.input_hash:
            return State.FAILED
        if changed:
            return State.CHANGED
        return State.DAMAGED if os.path.exists(self.root / unit.folder) else State.MISSING

    def entry(self, folder: str) -> Entry | None:
        """The entry in a published folder (relative to the root), None if there is none that can be read."""
        try:
            values = json.loads((self.root / folder / ENTRY).read_bytes())
            return Entry(**{**values, "outputs": tuple(Output(**output) for output in values["outputs"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def failure(self, name: str) -> Failure | None:
        """The failure recorded under a unit's name, None if there is none that can be read."""
        try:
            return Failure(**json.loads((self.failures / f"{name}.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def lease(self, unit: Unit) -> SoftFileLease:
        """The lease on a unit, not acquired yet. Who acquires it does the unit, publishes, and releases it."""
        return self._lease(unit.name)

    def sweep(self) -> None:
        """Remove attempts and leases of runs that are dead. A new attempt does that for its own unit; but a run can
        die right after it published, and nobody asks for that unit again."""
        names = {path.name.rpartition("-")[0] for path in self._attempts.iterdir()}
        for name in names | {path.stem for path in self._leases.glob("*.lease")}:
            lease = self._lease(name)
            if try_acquire(lease):
                self.clear_attempts(name)
                lease.release()

    def new_attempt(self, unit: Unit) -> Path:
        """A fresh folder to work in; what dead attempts at the unit left behind goes. Only under the unit's lease."""
        self.clear_attempts(unit.name)
        folder = self._attempts / f"{unit.name}-{uuid.uuid4().hex[:8]}"
        (folder / "outputs").mkdir(parents=True)
        return folder

    def clear_attempts(self, name: str) -> None:
        """Remove all work in progress at the unit of that name. Only under the unit's lease."""
        for left in self._attempts.iterdir():
            if left.name.startswith(f"{name}-"):
                shutil.rmtree(left, ignore_errors=True)

    def publish(self, unit: Unit, attempt: Path, entry: Entry) -> None:
        """Put an attempt's outputs and their entry in place, by one rename. Only under the unit's lease."""
        outputs, target = attempt / "outputs", self.folder(unit)
        write_whole(outputs / ENTRY, json.dumps(asdict(entry), indent=1) + "\n")
        target.parent.mkdir(parents=True, exist_ok=True)
        (self.failures / f"{unit.name}.json").unlink(missing_ok=True)
        (self.failures / f"{unit.name}.log").unlink(missing_ok=True)
        if target.exists():
            target.rename(attempt / "replaced" if (target / ENTRY).exists() else self._kept(unit))
        outputs.rename(target)

    def _kept(self, unit: Unit) -> Path:
        """Where a folder goes that stands in the way and that no run of ours has made: nothing of it is lost."""
        folder = self._private / "replaced"
        folder.mkdir(exist_ok=True)
        return folder / f"{unit.name}-{uuid.uuid4().hex[:8]}"

    def record_failure(self, unit: Unit, failure: Failure, log: str) -> None:
        (self.failures / failure.log).write_text(log)
        write_whole(self.failures / f"{unit.name}.json", json.dumps(asdict(failure), indent=1) + "\n")

    def _lease(self, name: str) -> SoftFileLease:
        return SoftFileLease(self._leases / f"{name}.lease", lease_duration=LEASE_S, thread_local=False)


def try_acquire(lease: SoftFileLease) -> bool:
    """Whether the lease is ours now. Ask the same object again later: it watches the other holder's signs of life."""
    try:
        lease.acquire(blocking=False)
    except Timeout:
        _break_empty(lease)
        return False
    return True


def is_held(lease: SoftFileLease) -> bool:
    """Whether the lease is still ours, by what its file says now: the heartbeat of a process that was stopped, or cut
    off from the disk, notices only later that another has taken over."""
    owner = lease.owner
    return owner is not None and owner.token == lease.token


def describe_outputs(folder: Path) -> Iterator[Output]:
    """What a folder holds, sorted by path, names that start with a dot left out."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            status = path.stat()
            yield Output(relative.as_posix(), status.st_size, digest_file(path), status.st_mtime_ns)


def new_entry(unit: Unit, outputs: tuple[Output, ...], seconds: float, attempt: int) -> Entry:
    return Entry(
        *unit.key, unit.input_hash, dict(unit.inputs), outputs, round(seconds, 4), attempt, socket.gethostname()
    )


def _break_empty(lease: SoftFileLease) -> None:
    """Free a lease whose file is empty and old. A power cut, or a kill between creating and writing it, leaves such a
    file; it names no process, so filelock would respect it for ever. Should its process live, `is_held` tells it."""
    try:
        status = os.stat(lease.lock_file)
    except OSError:
        return
    if status.st_size == 0 and time.time() - status.st_mtime > EMPTY_S:
        lease.force_break()


def _is_whole(path: Path, output: Output) -> bool:
    try:
        status = path.stat()
        if status.st_size != output.size:
            return False
        return status.st_mtime_ns == output.mtime_ns or digest_file(path) == output.sha256
    except OSError:
        return False
