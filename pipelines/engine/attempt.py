"""Doing one unit once, in whatever process: run the worker, check its outputs, say how it went."""

import errno
import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.engine.ledger import Output, describe_outputs
from pipelines.engine.stage import UnitError, Worker, Workplace
from pipelines.engine.unit import Unit

LOG = "log.txt"
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Task:
    """A unit to attempt, the folder to do it in, and the published folders it reads."""

    unit: Unit
    folder: Path
    upstream: Mapping[str, Path]

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    def logged(self) -> str:
        """What the attempt has logged so far, also one whose process died."""
        try:
            return (self.folder / LOG).read_text("utf-8", errors="replace")
        except OSError:
            return ""


@dataclass(frozen=True)
class Succeeded:
    """The outputs lie in the task's folder, checked."""

    task: Task
    outputs: tuple[Output, ...]
    seconds: float


@dataclass(frozen=True)
class Raised:
    """The attempt ended in an error.

    Args:
        permanent: trying again will not help.
        out_of_space: nor will going on with other units.
        worker_broken: the process that did it cannot do anything else (its CUDA context is gone).
    """

    task: Task
    error_class: str
    message: str
    traceback: str
    permanent: bool = False
    out_of_space: bool = False
    worker_broken: bool = False


Result = Succeeded | Raised


def attempt(worker: Worker, check: Callable[[Unit, Path], None], task: Task) -> Result:
    """Do one unit; an exception becomes a `Raised`, so that the rest of the batch goes on."""
    log, handler = _open_log(task.folder / LOG)
    began = time.monotonic()
    try:
        worker.run(task.unit, Workplace(task.outputs, task.upstream, log))
        check(task.unit, task.outputs)
        outputs = tuple(describe_outputs(task.outputs))
    except Exception as error:
        return _raised(task, error)
    finally:
        log.removeHandler(handler)
        handler.close()
    return Succeeded(task, outputs, time.monotonic() - began)


def _raised(task: Task, error: Exception) -> Raised:
    return Raised(
        task,
        error_class=type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        permanent=isinstance(error, UnitError),
        out_of_space=_is_out_of_space(error),
        # Named by its message: torch raises it as AcceleratorError or as RuntimeError. Running out of memory is not it.
        worker_broken=str(error).startswith("CUDA error"),
    )


def _is_out_of_space(error: Exception) -> bool:
    """Libraries that write for themselves (safetensors) raise errors of their own, with the system's words in them."""
    if isinstance(error, OSError) and error.errno in OUT_OF_SPACE:
        return True
    return any(os.strerror(code) in str(error) for code in OUT_OF_SPACE)


def _open_log(path: Path) -> tuple[logging.Logger, logging.Handler]:
    """A logger of its own, so that attempts side by side do not mix; what it gets also reaches the process's log."""
    log = logging.Logger("pipelines.attempt", logging.INFO)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True, errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return log, handler
