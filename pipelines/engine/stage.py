"""What a batch job implements: a worker that does units, and how to make one on a device."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from assay.errors import AssayError
from pipelines.engine.unit import Unit


class UnitError(AssayError, ValueError):
    """This unit cannot be done, and trying again will not help: a reference is missing, an input is unreadable."""


class InvalidOutputError(AssayError, RuntimeError):
    """A unit's outputs are not what its stage promises."""


@dataclass(frozen=True)
class Workplace:
    """Where a worker does one unit.

    Args:
        folder: empty; what the worker writes there is published as a whole. Names that start with a dot are left out.
        upstream: the published folder of each unit that was needed first, by stage name.
        log: goes to the run's log, and into the unit's own if it fails.
    """

    folder: Path
    upstream: Mapping[str, Path]
    log: logging.Logger


class Worker(Protocol):
    """Does units one after another, keeping its model loaded. If it has a method `close`, that is called at the end."""

    def run(self, unit: Unit, workplace: Workplace) -> None:
        """Write the unit's outputs.

        Raises:
            UnitError: it cannot be done; not tried again. Any other exception is tried again.
        """
        ...


def check_nothing(unit: Unit, folder: Path) -> None:
    """For stages that promise nothing of their outputs."""


@dataclass(frozen=True)
class Stage:
    """How the units of a stage are done.

    Args:
        name: as in `Unit.stage`.
        load: makes a worker on a torch device ("cpu", "cuda:0"); called once in each process. With Ray it travels to
            other processes, so it is a function or an object that pickles.
        check: raises `InvalidOutputError` unless a folder holds what the unit should give. Called before publishing.
        concurrency: attempts side by side in one process, in threads, for workers that mostly wait (for a service). On
            Ray, a process does one at a time.
    """

    name: str
    load: Callable[[str], Worker]
    check: Callable[[Unit, Path], None] = check_nothing
    concurrency: int = 1
