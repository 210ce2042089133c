"""Units and workers for the tests of the batch engine: deterministic, and told by `locations` how to misbehave."""

import json
import logging
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.engine.batch import BatchOptions, BatchReport, run_batch
from pipelines.engine.executors import InProcess
from pipelines.engine.ledger import Ledger
from pipelines.engine.stage import InvalidOutputError, Stage, UnitError, Workplace
from pipelines.engine.unit import Unit

#: Bytes of the larger of the two files that a unit gives, unless its inputs say another number.
SIZE = 2000


def make_unit(
    item: str,
    stage: str = "draw",
    *,
    variant: str = "plain",
    needs: Sequence[Unit] = (),
    inputs: Mapping[str, Any] | None = None,
    **locations: Any,
) -> Unit:
    folder = f"{variant}/{stage}/{item}"
    return Unit(item, variant, stage, folder, {"size": SIZE, **(inputs or {})}, locations, tuple(needs))


class Drawer:
    """Writes two files that its unit's seed decides. A unit's `locations` may hold

    work_s: how long it takes; gate: a file that it waits for; trace: a file that gets a line for each attempt;
    fail: "always", "permanent", "load-like"; fail_times: raise so often; kill: "always" or "once" kills the process.
    """

    def __init__(self) -> None:
        self.attempts: list[str] = []

    def run(self, unit: Unit, workplace: Workplace) -> None:
        self.attempts.append(unit.item)
        workplace.log.info("drawing %s", unit.item)
        self._misbehave(unit)
        content = random.Random(unit.seed("content")).randbytes(unit.inputs["size"])
        (workplace.folder / "parts").mkdir()
        (workplace.folder / "parts" / "content.bin").write_bytes(content)
        time.sleep(unit.locations.get("work_s", 0))
        above = {stage: sorted(path.name for path in folder.iterdir()) for stage, folder in workplace.upstream.items()}
        (workplace.folder / "about.json").write_text(json.dumps({"seed": unit.seed(), "upstream": above}))

    def _misbehave(self, unit: Unit) -> None:
        told = unit.locations
        number = self.attempts.count(unit.item)
        if trace := told.get("trace"):
            with open(trace, "a") as stream:
                number = stream.tell() // len("attempt\n") + 1
                stream.write("attempt\n")
        while "gate" in told and not os.path.exists(told["gate"]):
            time.sleep(0.005)
        if told.get("kill") == "always" or (told.get("kill") == "once" and number == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if told.get("fail") == "permanent":
            raise UnitError(f"{unit.item} has no reference")
        if told.get("fail") == "always" or number <= told.get("fail_times", 0):
            raise ValueError(f"attempt {number} at {unit.item} was told to fail")


def load_drawer(device: str) -> Drawer:
    return Drawer()


def load_nothing(device: str) -> Drawer:
    raise FileNotFoundError(f"no weights for {device}")


def check_about(unit: Unit, folder: Path) -> None:
    if unit.locations.get("refused"):
        raise InvalidOutputError(f"{unit.item} is not what was promised")
    json.loads((folder / "about.json").read_text())


def stages(*names: str) -> dict[str, Stage]:
    return {name: Stage(name, load_drawer, check_about) for name in names or ("draw", "finish")}


def do(
    units: Sequence[Unit], ledger: Ledger, stages_by_name: Mapping[str, Stage] | None = None, **options: Any
) -> BatchReport:
    """Run a batch in this process; its log is `test.engine`."""
    executor = InProcess(stages_by_name or stages(), "cpu")
    try:
        return run_batch(units, ledger, executor, BatchOptions(**options), logging.getLogger("test.engine"))
    finally:
        executor.close()


def outputs_below(root: Path) -> dict[str, bytes]:
    """Every file below a root but those of which some part of the path starts with a dot."""
    files = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    return {
        relative.as_posix(): path.read_bytes()
        for relative, path in files.items()
        if not any(part.startswith(".") for part in relative.parts)
    }


def leftovers(root: Path) -> list[str]:
    """What is claimed or half done below a root."""
    private = root / ".assay"
    return sorted(path.name for folder in ("leases", "attempts") for path in (private / folder).iterdir())
