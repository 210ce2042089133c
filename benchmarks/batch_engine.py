"""What the batch engine costs beside the work: units that do nothing but write one small file.

    python benchmarks/batch_engine.py [--units 10000 100000]

"plain loop" makes a folder a unit and writes the same file, which is what a script without an engine does: it knows
nothing of what is done, and leaves half a file where it is killed. "engine" is a run in process, with its leases,
digests, entries and log; "engine, all done" is the same command again, which finds everything done. A second number of
units shows how the cost grows; processor time shows it also where other programs are at work. It measures neither Ray
nor a network disk. Ratios travel from machine to machine better than times do.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.engine.batch import BatchOptions, BatchReport, run_batch
from pipelines.engine.executors import InProcess
from pipelines.engine.ledger import Ledger
from pipelines.engine.stage import Stage, Workplace
from pipelines.engine.unit import Unit

CONTENT = b"0123456789" * 10


class Writer:
    """Writes one file, the same for each unit."""

    def run(self, unit: Unit, workplace: Workplace) -> None:
        (workplace.folder / "content.bin").write_bytes(CONTENT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where to write; by default the system's folder for such files")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print(f"{'case':<20}{'units':>9}{'s':>9}{'ms/unit':>10}{'CPU ms/unit':>13}{'x plain loop':>14}", flush=True)
    for number in arguments.units:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            report(Path(folder), number)
    return 0


def report(folder: Path, number: int) -> None:
    units = [Unit(f"item-{index}", "bench", "write", f"write/{index:06}", {"index": index}) for index in range(number)]
    plain = row("plain loop", number, None, lambda: loop(units, folder / "plain"))
    row("engine", number, plain, lambda: run(units, folder / "engine", done=number))
    row("engine, all done", number, plain, lambda: run(units, folder / "engine", done=0))


def loop(units: list[Unit], root: Path) -> None:
    for unit in units:
        target = root / unit.folder
        target.mkdir(parents=True)
        (target / "content.bin").write_bytes(CONTENT)


def run(units: list[Unit], root: Path, done: int) -> None:
    root.mkdir(exist_ok=True)
    log = logging.Logger("bench", logging.INFO)
    log.addHandler(logging.FileHandler(root / "run.log"))
    executor = InProcess({"write": Stage("write", lambda device: Writer())}, "cpu")
    reported: BatchReport = run_batch(units, Ledger(root), executor, BatchOptions(), log)
    assert (reported.done, reported.skipped) == (done, len(units) - done)


def row(case: str, number: int, plain_s: float | None, call: Callable[[], object]) -> float:
    """Print how long a call for `number` units takes; seconds."""
    started, processor_started = time.perf_counter(), time.process_time()
    call()
    taken_s, processor_s = time.perf_counter() - started, time.process_time() - processor_started
    print(f"{case:<20}{number:>9}{taken_s:>9.2f}{taken_s * 1e3 / number:>10.3f}", end="")
    print(f"{processor_s * 1e3 / number:>13.3f}{taken_s / (plain_s or taken_s):>14.1f}", flush=True)
    return taken_s


if __name__ == "__main__":
    sys.exit(main())
