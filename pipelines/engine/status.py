"""What the ledger says of a run's folder: how many units of each variant and stage are done, failed, pending.

A plan, `<root>/.assay/plans/<digest of the variant>.json`, lists all units of a variant, whichever part of them a run
was asked to do. It is what makes a unit that nobody has begun visible as pending.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from assay.errors import ConfigError
from assay.files import write_whole
from pipelines.engine.ledger import Failure, Ledger, State
from pipelines.engine.unit import PlannedUnit, Unit

#: Columns of the table: "pending" is whatever is neither done nor failed.
COLUMNS = ("units", "done", "failed", "pending")


@dataclass(frozen=True)
class StageStatus:
    """How many units of one stage of one variant are done, have failed, and are neither; and the failures."""

    variant: str
    stage: str
    done: int
    failed: int
    pending: int
    failures: tuple[Failure, ...]

    @property
    def units(self) -> int:
        return self.done + self.failed + self.pending


@dataclass(frozen=True)
class Plan:
    """All units of one variant, in their order, and the job that does them."""

    job: str
    variant: str
    units: list[PlannedUnit]


def write_plan(ledger: Ledger, job: str, units: Sequence[Unit]) -> None:
    """Record all units of the variants that occur among `units`, in the place of the variants' earlier plans."""
    for variant, planned in groupby(sorted(units, key=lambda unit: unit.variant), key=lambda unit: unit.variant):
        path = ledger.plans / f"{hashlib.sha256(variant.encode()).hexdigest()[:16]}.json"
        plan = Plan(job, variant, [unit.planned() for unit in planned])
        write_whole(path, json.dumps(asdict(plan)) + "\n")


def read_plans(ledger: Ledger) -> list[Plan]:
    """The plan of each variant, sorted by variant."""
    plans = [json.loads(path.read_text()) for path in ledger.plans.glob("*.json")]
    plans.sort(key=lambda plan: str(plan["variant"]))
    return [Plan(p["job"], p["variant"], [PlannedUnit(**unit) for unit in p["units"]]) for p in plans]


def stage_statuses(ledger: Ledger) -> list[StageStatus]:
    """The status of each stage of each variant, sorted by variant, stages as planned."""
    return [status for plan in read_plans(ledger) for status in _of_plan(ledger, plan)]


def open_ledger(root: Path) -> Ledger:
    """The ledger of a folder that a run has written.

    Raises:
        ConfigError: no run has.
    """
    if not (root / ".assay" / "plans").is_dir():
        raise ConfigError(f"{root} holds no batch: there is no folder .assay/plans in it")
    return Ledger(root)


def table(statuses: Iterable[StageStatus]) -> str:
    """For people: a row a stage."""
    rows = [["variant", "stage", *COLUMNS]]
    rows += [[s.variant, s.stage, *(str(getattr(s, column)) for column in COLUMNS)] for s in statuses]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _of_plan(ledger: Ledger, plan: Plan) -> Iterator[StageStatus]:
    for stage in dict.fromkeys(unit.stage for unit in plan.units):
        mine = [unit for unit in plan.units if unit.stage == stage]
        states = {unit.name: ledger.state(unit) for unit in mine}
        counts = Counter(states.values())
        done, failed = counts[State.DONE], counts[State.FAILED]
        failures = [ledger.failure(name) for name, state in states.items() if state is State.FAILED]
        yield StageStatus(
            variant=plan.variant,
            stage=stage,
            done=done,
            failed=failed,
            pending=len(mine) - done - failed,
            failures=tuple(failure for failure in failures if failure),
        )
