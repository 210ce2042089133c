"""A batch job from its units to its summary: plan, choose this run's part, run it, derive the summaries."""

import logging
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from assay.errors import ConfigError
from pipelines.engine import devices
from pipelines.engine.attempt import OUT_OF_SPACE
from pipelines.engine.batch import BatchOptions, BatchReport, BatchStoppedError, run_batch
from pipelines.engine.executors import Executor, InProcess
from pipelines.engine.ledger import Ledger
from pipelines.engine.selection import parse_indices, parse_shard
from pipelines.engine.settings import BatchSettings
from pipelines.engine.stage import Stage
from pipelines.engine.status import write_plan
from pipelines.engine.unit import Unit


@dataclass(frozen=True)
class Job:
    """What a batch job consists of.

    Args:
        name: the command's, e.g. "generate".
        units: all of them, whichever this run does; stage by stage where there are several, so that a worker keeps its
            model for as long as possible.
        stages: by name.
        log_folders: variant -> folder, relative to the root, in which its `run.log` is written beside the root's.
        summarize: derives the summary files of all variants from the ledger.
        first_items: do only so many items of each variant; the others stay planned.
    """

    name: str
    units: Sequence[Unit]
    stages: Mapping[str, Stage]
    log_folders: Mapping[str, str]
    summarize: Callable[[Ledger], list[Path]]
    first_items: int | None = None


def run_job(job: Job, settings: BatchSettings, root: Path, gpus_seen: int) -> BatchReport:
    """Do what is left of the job, or this run's part of it.

    Args:
        job: what there is to do.
        settings: how, and which part of it.
        root: of the outputs.
        gpus_seen: how many GPUs CUDA shows to this process.

    Raises:
        ConfigError: the settings do not fit the machine or the items, or the root cannot be written.
        BatchStoppedError: the run cannot go on; what is done stays done.
    """
    chosen = choose_units(job.units, settings, job.first_items)
    ledger = Ledger(root)
    try:
        return _run(job, chosen, settings, ledger, gpus_seen)
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            raise BatchStoppedError(
                f"no space left for {ledger.root}: free some and run the same command again"
            ) from error
        raise


def _run(job: Job, chosen: Sequence[Unit], settings: BatchSettings, ledger: Ledger, gpus_seen: int) -> BatchReport:
    write_plan(ledger, job.name, job.units)
    options = BatchOptions(settings.retries, settings.continue_on_error, not settings.skip_existing, job.name)
    executor = make_executor(job.stages, settings, gpus_seen)
    with closing(executor), open_logs(ledger.root, job.log_folders) as log:
        log.info("%s: %d units planned, %d in this run", job.name, len(job.units), len(chosen))
        report = run_batch(chosen, ledger, executor, options, log)
        log.info("%s: %s", job.name, report)
    job.summarize(ledger)
    return report


def choose_units(units: Sequence[Unit], settings: BatchSettings, first_items: int | None = None) -> list[Unit]:
    """The units of this run's shard and indices. An index is an item's position within its variant."""
    items: dict[str, dict[str, int]] = defaultdict(dict)
    for unit in units:
        items[unit.variant].setdefault(unit.item, len(items[unit.variant]))
    if first_items is not None:
        units = [unit for unit in units if items[unit.variant][unit.item] < first_items]
    if settings.indices is not None:
        chosen = parse_indices([settings.indices], max(map(len, items.values()), default=0))
        units = [unit for unit in units if items[unit.variant][unit.item] in chosen]
    if settings.shard is not None:
        shard = parse_shard(settings.shard)
        units = [unit for unit in units if shard.holds(unit.item)]
    return list(units)


def make_executor(stages: Mapping[str, Stage], settings: BatchSettings, gpus_seen: int) -> Executor:
    """The executor that the settings ask for, on the devices that there are."""
    visible = devices.visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), gpus_seen)
    wants_ray = settings.ray_address is not None or settings.workers > 1
    if settings.engine == "in_process" and wants_ray:
        raise ConfigError("engine = in_process goes with neither ray_address nor workers > 1; allowed: ray, auto")
    on_cluster = settings.ray_address is not None
    gpus = [] if on_cluster else devices.choose_gpus(visible, settings.num_gpus)
    if settings.num_gpus > 0 and not gpus and not on_cluster:
        print(f"assay: warning: num_gpus = {settings.num_gpus}, but no GPU is visible: using the CPU", file=sys.stderr)
    if settings.engine == "in_process" or (settings.engine == "auto" and len(gpus) <= 1 and not wants_ray):
        if len(gpus) > 1 and settings.num_gpus != -1:
            raise ConfigError(f"num_gpus = {settings.num_gpus} with engine = in_process, which uses one; allowed: ray")
        return InProcess(stages, "cuda:0" if gpus else "cpu")
    try:
        from pipelines.engine import ray_actors
    except ImportError as error:
        raise ConfigError(
            f"engine = {settings.engine} with {len(gpus)} GPUs needs Ray: pip install 'assay[ray]', or choose "
            "num_gpus = 1"
        ) from error
    return ray_actors.start(stages, settings, gpus)


@contextmanager
def open_logs(root: Path, folders: Mapping[str, str]) -> Iterator[logging.Logger]:
    """A logger that appends to `<root>/run.log`, and lines of a variant also to the `run.log` in its folder."""
    log = logging.Logger("pipelines", logging.INFO)
    log.addHandler(_log_file(root))
    for variant, folder in folders.items():
        of_variant = _log_file(root / folder)
        of_variant.addFilter(_OfVariant(variant))
        log.addHandler(of_variant)
    try:
        yield log
    finally:
        for handler in log.handlers:
            handler.close()


def _log_file(folder: Path) -> logging.Handler:
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "run.log", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


class _OfVariant(logging.Filter):
    """Lets pass what is said of one variant's units, and what is said of none."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self._variant = variant

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "variant", self._variant) == self._variant
