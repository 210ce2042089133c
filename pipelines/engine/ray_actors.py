"""Attempts on all GPUs of a machine or a cluster, with Ray: one actor a device, each keeping its worker loaded.

An actor that dies takes only its own attempt with it: that ends in an error, and a new actor takes the place as soon as
there is a device for it. Where Ray itself is gone, the run ends. All machines of a cluster must see the run's folder,
the models and the inputs under the same paths.
"""

import dataclasses
import os
import threading
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from assay.errors import ConfigError
from pipelines.engine.attempt import Raised, Result, Task
from pipelines.engine.batch import BatchStoppedError
from pipelines.engine.executors import InProcess
from pipelines.engine.ray_head import RayHead
from pipelines.engine.settings import BatchSettings
from pipelines.engine.stage import Stage

#: So many deaths in a row, with no attempt ended well or ill in between, are no accident of one unit.
DEATHS_IN_A_ROW = 20


class RayActors:
    """An executor with `number` actors, each with one GPU or, without GPUs, one CPU core.

    Raises:
        ConfigError: there are no resources for as many.
    """

    def __init__(self, stages: Mapping[str, Stage], number: int, *, on_gpus: bool) -> None:
        available = num_devices(on_gpus)
        if not 1 <= number <= available:
            kind = "GPUs" if on_gpus else "CPU cores"
            field = "num_gpus" if on_gpus else "workers"
            raise ConfigError(f"{field} = {number}; allowed: 1 to {available}, the {kind} that Ray has")
        self._stages = dict(stages)
        self._on_gpus = on_gpus
        self._starting: dict[Any, Any] = {}  # what tells that an actor has started -> the actor
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Task]] = {}
        self._deaths_in_a_row = 0
        self._head = RayHead(ray.get_runtime_context().gcs_address)
        for _ in range(number):
            self._start_actor()

    def has_room(self) -> bool:
        self._look_around()
        return bool(self._idle)

    def submit(self, task: Task) -> None:
        actor = self._idle.pop()
        self._running[actor.attempt.remote(task)] = actor, task

    def next_result(self, timeout_s: float) -> Result | None:
        self._look_around()
        ended, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        if not ended:
            return None
        actor, task = self._running.pop(ended[0])
        try:
            result: Result = ray.get(ended[0])
        except RayActorError as error:
            return self._worker_died(actor, task, str(error))
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None  # the worker could not be loaded
        self._deaths_in_a_row = 0
        if isinstance(result, Raised) and result.worker_broken:
            self._replace(actor)
            return dataclasses.replace(result, worker_broken=False)
        self._idle.append(actor)
        return result

    def close(self) -> None:
        if not self._head.answers():
            return  # Ray would wait for it
        for actor in [*self._starting.values(), *self._idle, *(actor for actor, _ in self._running.values())]:
            ray.kill(actor)
        self._starting, self._idle, self._running = {}, [], {}
        ray.shutdown()

    def _look_around(self) -> None:
        """Take in actors that have started. Those that find no device wait, and the others go on without them."""
        if self._head.look() and num_devices(self._on_gpus) == 0:
            raise BatchStoppedError("all machines of the Ray cluster are gone; run the same command again")
        for sign in list(self._starting):
            if not ray.wait([sign], timeout=0)[0]:
                continue
            actor = self._starting.pop(sign)
            try:
                ray.get(sign)
            except RayActorError as error:
                self._count_death(str(error))
                self._replace(actor)
            else:
                self._idle.append(actor)

    def _count_death(self, why: str) -> None:
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row >= DEATHS_IN_A_ROW:
            raise BatchStoppedError(f"{DEATHS_IN_A_ROW} workers died one after another, the last with: {why}")

    def _worker_died(self, actor: Any, task: Task, why: str) -> Raised:
        self._count_death(why)
        self._replace(actor)
        first_line = why.strip().splitlines()[0] if why.strip() else "no reason given"
        return Raised(task, "WorkerDiedError", f"the process that did this unit died: {first_line}", traceback=why)

    def _replace(self, actor: Any) -> None:
        ray.kill(actor)
        self._start_actor()

    def _start_actor(self) -> None:
        resources = {"num_gpus": 1, "num_cpus": 0} if self._on_gpus else {"num_cpus": 1}
        # Ray gives a process with one GPU the variable CUDA_VISIBLE_DEVICES with that one entry: it is cuda:0 there.
        actor = _Actor.options(**resources).remote(self._stages, "cuda:0" if self._on_gpus else "cpu")
        self._starting[actor.__ray_ready__.remote()] = actor


def num_devices(on_gpus: bool) -> int:
    """How many GPUs or CPU cores the cluster has at the moment."""
    return int(ray.cluster_resources().get("GPU" if on_gpus else "CPU", 0))


class _WorkerProcess:
    """A worker in a process of its own."""

    def __init__(self, stages: Mapping[str, Stage], device: str) -> None:
        self._local = InProcess(stages, device)

    def attempt(self, task: Task) -> Result | None:
        self._local.submit(task)
        return self._local.next_result(threading.TIMEOUT_MAX)


_Actor: Any = ray.remote(max_restarts=0)(_WorkerProcess)


def start(stages: Mapping[str, Stage], settings: BatchSettings, gpus: list[str]) -> RayActors:
    """Actors on a running cluster, or on Ray started on this machine alone.

    Args:
        stages: by name.
        settings: which cluster, and how many workers where there are no GPUs.
        gpus: entries of CUDA_VISIBLE_DEVICES to use on this machine. On a cluster, Ray says which GPUs there are.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    if settings.ray_address is not None:
        try:
            ray.init(address=settings.ray_address, **quiet)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f"ray_address = {settings.ray_address!r}: no cluster answers there: {error}") from error
        number = num_devices(on_gpus=True) if settings.num_gpus == -1 else settings.num_gpus
    else:
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        number = len(gpus)
        # "local": with None, Ray would join whatever cluster RAY_ADDRESS or an earlier `ray start` names.
        ray.init("local", num_gpus=number, num_cpus=settings.workers, include_dashboard=False, **quiet)
    return RayActors(stages, number or settings.workers, on_gpus=number > 0)
