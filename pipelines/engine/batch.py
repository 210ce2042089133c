"""The loop over a batch: claim a unit, hand it out, publish what came of it; try again, fail, or go on.

One process runs it, and is the only one that publishes, under a lease on the unit. Several such processes can work on
one folder, on one machine or on many that share it: what one has claimed the others leave alone, and take up when its
lease runs out.
"""

import logging
import shutil
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import SoftFileLease

from assay.errors import AssayError, ConfigError
from pipelines.engine.attempt import OUT_OF_SPACE, Raised, Result, Succeeded, Task
from pipelines.engine.executors import Executor
from pipelines.engine.ledger import Failure, Ledger, State, is_held, new_entry, try_acquire
from pipelines.engine.progress import Progress
from pipelines.engine.termination import unwinding_on_termination
from pipelines.engine.unit import Unit

POLL_S = 0.5


class BatchStoppedError(AssayError, RuntimeError):
    """The batch cannot go on; what is done stays done, and the same command takes it up again."""


@dataclass(frozen=True)
class BatchOptions:
    """How a batch goes about its units.

    Args:
        retries: further attempts at a unit that raised or whose worker died; none for a `UnitError`.
        continue_on_error: go on with other units when one has failed; else stop once those under way have ended.
        redo: do units again that are done.
        description: what the progress bar says.
    """

    retries: int = 2
    continue_on_error: bool = True
    redo: bool = False
    description: str = "units"


@dataclass(frozen=True)
class BatchReport:
    """How many units of the batch were done here, done before, done meanwhile by other runs, failed, were blocked by
    failed ones, or were left because the batch stopped at a failure."""

    done: int
    skipped: int
    elsewhere: int
    failed: int
    blocked: int
    left: int

    @property
    def complete(self) -> bool:
        return not (self.failed or self.blocked or self.left)

    def sentence(self, root: Path) -> str:
        """For people: what happened, and where to look."""
        counts = {
            "done": self.done,
            "done before": self.skipped,
            "done by other runs": self.elsewhere,
            "failed": self.failed,
            "blocked": self.blocked,
            "left": self.left,
        }
        said = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number) or "nothing to do"
        return f"{said}; see `assay pipeline status {root}`"


def run_batch(
    units: Sequence[Unit], ledger: Ledger, executor: Executor, options: BatchOptions, log: logging.Logger
) -> BatchReport:
    """Do all units that are not done yet.

    Args:
        units: in the order in which they should be done. A unit whose needs are neither part of the batch nor done is
            blocked.
        log: gets a line for each thing that happens, with the attribute `variant` of the unit.

    Raises:
        ConfigError: a unit occurs twice, or two would be published in one folder.
        BatchStoppedError: the disk is full, or a worker is beyond repair.
        AssayError: a worker could not be loaded.
    """
    _check_distinct(units)
    batch = _Batch(ledger, executor, options, log)
    with unwinding_on_termination():
        return batch.run(units)


def _check_distinct(units: Sequence[Unit]) -> None:
    names, folders = set[str](), set[str]()
    for unit in units:
        if unit.name in names or unit.folder in folders:
            raise ConfigError(f"{unit} occurs twice, or another unit has its folder {unit.folder} as well")
        names.add(unit.name)
        folders.add(unit.folder)


class _Batch:
    def __init__(self, ledger: Ledger, executor: Executor, options: BatchOptions, log: logging.Logger) -> None:
        self._ledger = ledger
        self._executor = executor
        self._options = options
        self._log = log
        self._waiting: deque[Unit] = deque()
        self._running: dict[str, Task] = {}
        self._leases: dict[str, SoftFileLease] = {}  # those held, and those that other runs hold
        self._attempts: Counter[str] = Counter()
        self._names: set[str] = set()
        self._settled: dict[str, str] = {}  # name -> "done", "skipped", "elsewhere", "failed" or "blocked"
        self._stopping = False

    def run(self, units: Sequence[Unit]) -> BatchReport:
        self._names = {unit.name for unit in units}
        states = {unit.name: self._ledger.state(unit) for unit in units}
        skipped = [] if self._options.redo else [unit for unit in units if states[unit.name] is State.DONE]
        names = {unit.name for unit in skipped}
        left = [unit for unit in units if unit.name not in names]
        # What failed before comes last: a unit that breaks its process must not keep the others from being done.
        self._waiting.extend(sorted(left, key=lambda unit: states[unit.name] is State.FAILED))
        self._settled = dict.fromkeys(names, "skipped")
        with Progress(len(units), len(skipped), self._options.description) as self._progress:
            try:
                self._ledger.sweep()
                while (self._waiting and not self._stopping) or self._running:
                    self._hand_out()
                    self._settle_next()
            except OSError as error:
                if error.errno not in OUT_OF_SPACE:
                    raise
                self._stop_for_space()
            finally:
                self._abandon()
        counts = Counter(self._settled.values())
        return BatchReport(
            done=counts["done"],
            skipped=counts["skipped"],
            elsewhere=counts["elsewhere"],
            failed=counts["failed"],
            blocked=counts["blocked"],
            left=self._left(),
        )

    def _hand_out(self) -> None:
        """Start waiting units while there is room; those that cannot start yet go to the end of the line."""
        for _ in range(len(self._waiting)):
            if self._stopping or not self._executor.has_room():
                return
            unit = self._waiting.popleft()
            if not self._start(unit):
                self._waiting.append(unit)

    def _start(self, unit: Unit) -> bool:
        """Whether the unit is under way or settled now."""
        for need in unit.needs:
            if self._is_out_of_reach(need):
                self._settle(unit, "blocked", f"it needs {need}, which is not done")
                return True
        if any(need.name in self._names and need.name not in self._settled for need in unit.needs):
            return False
        if not try_acquire(self._leases.setdefault(unit.name, self._ledger.lease(unit))):
            return False
        if not self._options.redo and self._ledger.state(unit) is State.DONE:
            self._let_go(unit)
            self._settle(unit, "elsewhere", "another run did it")
            return True
        upstream = {need.stage: self._ledger.folder(need) for need in unit.needs}
        self._running[unit.name] = Task(unit, self._ledger.new_attempt(unit), upstream)
        self._attempts[unit.name] += 1
        self._executor.submit(self._running[unit.name])
        return True

    def _is_out_of_reach(self, need: Unit) -> bool:
        if need.name in self._names:
            return self._settled.get(need.name) in ("failed", "blocked")
        return self._ledger.state(need) is not State.DONE

    def _settle_next(self) -> None:
        if not self._running:
            if self._waiting and not self._stopping:
                self._progress.waiting(len(self._waiting))
                time.sleep(POLL_S)
            return
        result = self._executor.next_result(POLL_S)
        if result is None:
            return
        try:
            self._conclude(result)
        finally:
            self._let_go(result.task.unit)

    def _conclude(self, result: Result) -> None:
        unit, logged = result.task.unit, result.task.logged()
        for line in logged.splitlines():
            self._say(logging.INFO, unit, f"| {line}")
        if not is_held(self._leases[unit.name]):
            # This process was stopped or cut off for so long that another took the unit over: its work counts.
            self._say(logging.WARNING, unit, "lost its lease; this attempt's outputs are dropped")
            self._waiting.append(unit)
        elif isinstance(result, Succeeded):
            self._publish(unit, result, logged)
        else:
            self._conclude_error(unit, result, logged)

    def _publish(self, unit: Unit, result: Succeeded, logged: str) -> None:
        entry = new_entry(unit, result.outputs, result.seconds, self._attempts[unit.name])
        try:
            self._ledger.publish(unit, result.task.folder, entry)
        except OSError as error:
            if error.errno in OUT_OF_SPACE:
                raise
            # A name too long, a folder that may not be written: this unit's error, not the batch's.
            self._conclude_error(
                unit, Raised(result.task, type(error).__name__, str(error), "", permanent=True), logged
            )
            return
        self._settle(unit, "done", f"{len(result.outputs)} files in {result.seconds:.2f} s")

    def _conclude_error(self, unit: Unit, result: Raised, logged: str) -> None:
        said = f"{result.error_class}: {result.message}"
        if result.out_of_space:
            self._stop_for_space()
        attempts = self._attempts[unit.name]
        if not (result.permanent or result.worker_broken) and attempts <= self._options.retries:
            self._say(logging.WARNING, unit, f"attempt {attempts} ended in {said}; trying again")
            self._waiting.appendleft(unit)
            return
        failure = Failure(
            *unit.key,
            input_hash=unit.input_hash,
            error_class=result.error_class,
            message=result.message,
            traceback=result.traceback,
            attempts=attempts,
            host=socket.gethostname(),
            log=f"{unit.name}.log",
        )
        self._ledger.record_failure(unit, failure, logged)
        self._settle(unit, "failed", said)
        if result.worker_broken:
            raise BatchStoppedError(f"{unit}: {said}: this process cannot go on; run the same command again")
        self._stopping = self._stopping or not self._options.continue_on_error

    def _settle(self, unit: Unit, kind: str, why: str) -> None:
        self._settled[unit.name] = kind
        self._say(logging.ERROR if kind in ("failed", "blocked") else logging.INFO, unit, f"{kind}: {why}")
        self._progress.settled(kind)

    def _say(self, level: int, unit: Unit, message: str) -> None:
        self._log.log(level, "%s: %s", unit, message, extra={"variant": unit.variant})

    def _stop_for_space(self) -> None:
        free = shutil.disk_usage(self._ledger.root).free
        raise BatchStoppedError(
            f"no space left for {self._ledger.root} ({free // 2**20} MiB free): {self._left()} units are left; "
            "free some space and run the same command again"
        )

    def _left(self) -> int:
        return len(self._names) - len(self._settled)

    def _let_go(self, unit: Unit) -> None:
        if task := self._running.get(unit.name):
            shutil.rmtree(task.folder, ignore_errors=True)
        self._leases[unit.name].release()
        self._running.pop(unit.name, None)
        del self._leases[unit.name]

    def _abandon(self) -> None:
        """Leave nothing claimed and nothing half done, wherever a signal struck: a unit may be claimed, and its attempt
        begun, without being among those that run."""
        for name, lease in self._leases.items():
            if is_held(lease):
                self._ledger.clear_attempts(name)
            lease.release()
