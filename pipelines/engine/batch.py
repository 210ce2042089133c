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

from assay.errors import AssayError
from pipelines.engine.attempt import OUT_OF_SPACE, Raised, Result, Succeeded, Task
from pipelines.engine.executors import Executor
from pipelines.engine.ledger import Failure, Ledger, State, new_entry, try_acquire
from pipelines.engine.progress import Progress
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
        units: in the order in which they should be done; a unit's needs before it where they are part of the batch.
        log: gets a line for each thing that happens, with the attribute `variant` of the unit.

    Raises:
        BatchStoppedError: the disk is full, or a worker is beyond repair.
        AssayError: a worker could not be loaded.
    """
    batch = _Batch(ledger, executor, options, log)
    return batch.run(units)


class _Batch:
    def __init__(self, ledger: Ledger, executor: Executor, options: BatchOptions, log: logging.Logger) -> None:
        self._ledger = ledger
        self._executor = executor
        self._options = options
        self._log = log
        self._waiting: deque[Unit] = deque()
        self._running: dict[str, tuple[Task, SoftFileLease]] = {}
        self._held_elsewhere: dict[str, SoftFileLease] = {}
        self._attempts: Counter[str] = Counter()
        self._settled: dict[str, str] = {}  # a unit's name -> "done", "elsewhere", "failed" or "blocked"
        self._stopping = False

    def run(self, units: Sequence[Unit]) -> BatchReport:
        skipped = [] if self._options.redo else [u for u in units if self._ledger.state(u) is State.DONE]
        names = {unit.name for unit in skipped}
        self._waiting.extend(unit for unit in units if unit.name not in names)
        self._settled = dict.fromkeys(names, "skipped")
        with Progress(len(units), len(skipped), self._options.description) as self._progress:
            try:
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
            left=len(self._waiting),
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
        needs = [self._settled.get(need.name) for need in unit.needs]
        if any(kind in ("failed", "blocked") for kind in needs):
            self._settle(unit, "blocked", "something that it needs has failed")
            return True
        if any(k is None and self._ledger.state(n) is not State.DONE for k, n in zip(needs, unit.needs, strict=True)):
            return False
        lease = self._held_elsewhere.get(unit.name) or self._ledger.lease(unit)
        if not try_acquire(lease):
            self._held_elsewhere[unit.name] = lease
            return False
        self._held_elsewhere.pop(unit.name, None)
        if not self._options.redo and self._ledger.state(unit) is State.DONE:
            lease.release()
            self._settle(unit, "elsewhere", "another run did it")
            return True
        upstream = {need.stage: self._ledger.folder(need) for need in unit.needs}
        try:
            task = Task(unit, self._ledger.new_attempt(unit), upstream)
        except OSError:
            lease.release()
            raise
        self._attempts[unit.name] += 1
        self._running[unit.name] = task, lease
        self._executor.submit(task)
        return True

    def _settle_next(self) -> None:
        if not self._running:
            if self._waiting and not self._stopping:
                self._progress.waiting(len(self._waiting))
                time.sleep(POLL_S)
            return
        result = self._executor.next_result(POLL_S)
        if result is None:
            return
        task, lease = self._running.pop(result.task.unit.name)
        try:
            self._conclude(result, lease)
        finally:
            shutil.rmtree(task.folder, ignore_errors=True)
            lease.release()

    def _conclude(self, result: Result, lease: SoftFileLease) -> None:
        unit, logged = result.task.unit, result.task.logged()
        for line in logged.splitlines():
            self._say(logging.INFO, unit, f"| {line}")
        if lease.compromise is not None or not lease.is_locked:
            # This process was stopped or cut off for so long that another took the unit over: its work counts.
            self._say(logging.WARNING, unit, "lost its lease; this attempt's outputs are dropped")
            self._waiting.append(unit)
        elif isinstance(result, Succeeded):
            entry = new_entry(unit, result.outputs, result.seconds, self._attempts[unit.name])
            self._ledger.publish(unit, result.task.folder, entry)
            self._settle(unit, "done", f"{len(result.outputs)} files in {result.seconds:.2f} s")
        else:
            self._conclude_error(unit, result, logged)

    def _conclude_error(self, unit: Unit, result: Raised, logged: str) -> None:
        said = f"{result.error_class}: {result.message}"
        if result.out_of_space:
            self._waiting.appendleft(unit)
            self._stop_for_space()
        if result.worker_broken:
            self._waiting.appendleft(unit)
            raise BatchStoppedError(f"{unit}: {said}: this process cannot go on; run the same command again")
        attempts = self._attempts[unit.name]
        if not result.permanent and attempts <= self._options.retries:
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
            f"no space left for {self._ledger.root} ({free // 2**20} MiB free): {len(self._waiting)} units are left; "
            "free some space and run the same command again"
        )

    def _abandon(self) -> None:
        """Leave nothing claimed and nothing half done."""
        for task, lease in self._running.values():
            shutil.rmtree(task.folder, ignore_errors=True)
            lease.release()
        self._running.clear()
