"""A batch run as a process of its own, for the tests to kill, stop and starve. Prints its report as JSON.

    python engine_run.py SETTINGS.json

Settings: root, units (a list of arguments of `make_unit`), log, lease_s, workers (0: in process, else Ray actors),
ray_address, retries, load ("drawer" or "nothing"), poll_s.
"""

import dataclasses
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import engine_doubles

from assay.errors import AssayError
from pipelines.engine import batch, ledger
from pipelines.engine.executors import Executor, InProcess
from pipelines.engine.stage import Stage


def main(settings: dict[str, Any]) -> int:
    ledger.LEASE_S = settings["lease_s"]
    batch.POLL_S = settings["poll_s"]
    log = logging.getLogger("run")
    log.setLevel(logging.INFO)
    log.addHandler(logging.FileHandler(settings["log"]))
    units = [engine_doubles.make_unit(**unit) for unit in settings["units"]]
    try:
        with_ledger = ledger.Ledger(Path(settings["root"]))
        executor = make_executor(settings)
        try:
            options = batch.BatchOptions(retries=settings["retries"])
            report = batch.run_batch(units, with_ledger, executor, options, log)
        finally:
            executor.close()
    except AssayError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(dataclasses.asdict(report)))
    return 0


def make_executor(settings: dict[str, Any]) -> Executor:
    load = {"drawer": engine_doubles.load_drawer, "nothing": engine_doubles.load_nothing}[settings["load"]]
    stages = {"draw": Stage("draw", load, engine_doubles.check_about)}
    if not settings["workers"]:
        return InProcess(stages, "cpu")
    from pipelines.engine import ray_actors
    from pipelines.engine.settings import BatchSettings

    where = {"engine": "ray", "workers": settings["workers"], "ray_address": settings["ray_address"]}
    return ray_actors.start(stages, BatchSettings(**where), [])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background lets its children ignore it
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
