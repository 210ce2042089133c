"""Batching: one queue for all scorers of a process, one batch at a time, formed the moment the model is free.

No timer: while the model works, items gather by themselves. A batch takes the most urgent items of one scorer
(training before evaluation before batch work, then first come first served) up to a budget in pixels. Items whose
caller has gone, or whose deadline has passed, leave the queue unscored.
"""

import asyncio
import heapq
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from assay.outcomes import Outcome
from assay.serving.current_call import current_call
from assay.serving.execution import count_pixels, score_isolated
from assay.serving.metrics import Metrics
from assay.serving.model_thread import ModelThread
from assay.serving.rejection import Rejection
from assay.serving.scorer import Sample, Scorer, ScorerInfo
from assay.serving.service_time import ServiceTime


@dataclass(frozen=True)
class BatchResult:
    """What one item got, and where its time went."""

    outcome: Outcome
    queue_ns: int
    infer_ns: int
    batch_items: int
    started_ns: int
    model_started_ns: int
    model_ended_ns: int


@dataclass(eq=False)
class Entry:
    """One item in the queue. `deadline_s` is on the monotonic clock."""

    sample: Sample
    pixels: int
    deadline_s: float
    queued_ns: int
    request_id: str
    future: "asyncio.Future[BatchResult]"


@dataclass(eq=False)
class ScorerHost:
    """A scorer with its queue."""

    scorer: Scorer
    info: ScorerInfo
    pixel_budget: int
    max_batch_items: int
    ready: bool = False
    service_time: ServiceTime = field(default_factory=ServiceTime)
    queue: list[tuple[int, int, Entry]] = field(default_factory=list)
    queued_pixels: int = 0

    def lower_budget(self, failed_pixels: int) -> None:
        """To half of a batch that did not fit in memory."""
        self.pixel_budget = max(1, min(self.pixel_budget, failed_pixels // 2))

    def estimate_s(self, extra_items: int = 0, extra_pixels: int = 0) -> float:
        """Seconds that the queue, and what is to join it, will take."""
        items, pixels = len(self.queue) + extra_items, self.queued_pixels + extra_pixels
        batches = max(math.ceil(items / self.max_batch_items), math.ceil(pixels / self.pixel_budget))
        return self.service_time.estimate_s(items, batches)


class Batcher:
    """Feeds the model thread. Use it from one event loop; `run` must be running as a task."""

    def __init__(self, hosts: Sequence[ScorerHost], model_thread: ModelThread, metrics: Metrics) -> None:
        self._hosts = hosts
        self._model_thread = model_thread
        self._metrics = metrics
        self._sequence = 0
        self._work_arrived = asyncio.Event()
        self._busy_until_s = 0.0

    def eta_s(self, host: ScorerHost, items: int, pixels: int) -> float:
        """Seconds until items that join now would be scored, if nothing more urgent comes."""
        running_s = max(0.0, self._busy_until_s - time.monotonic())
        others_s = sum(other.estimate_s() for other in self._hosts if other is not host)
        return running_s + others_s + host.estimate_s(items, pixels)

    async def score(
        self, host: ScorerHost, samples: Sequence[Sample], priority: int, deadline_s: float
    ) -> list[BatchResult]:
        """Queue samples and wait for their results, in order. Cancelling takes them out of the queue.

        Raises:
            Rejection: DEADLINE_EXCEEDED: the deadline passed while they were queued.
        """
        loop, now_ns = asyncio.get_running_loop(), time.perf_counter_ns()
        futures, request_id = [], current_call().request_id
        for sample in samples:
            entry = Entry(sample, count_pixels(sample), deadline_s, now_ns, request_id, loop.create_future())
            self._sequence += 1
            heapq.heappush(host.queue, (priority, self._sequence, entry))
            host.queued_pixels += entry.pixels
            futures.append(entry.future)
        self._work_arrived.set()
        try:
            return await asyncio.gather(*futures)
        finally:
            for future in futures:  # when one fails, the call is over: its other items must not be scored
                future.cancel()

    async def run(self) -> None:
        """Form and score batches until cancelled."""
        while True:
            host = self._most_urgent()
            if host is None:
                self._work_arrived.clear()
                await self._work_arrived.wait()
            elif batch := self._take(host):
                await self._score_batch(host, batch)

    def _most_urgent(self) -> ScorerHost | None:
        waiting = [host for host in self._hosts if host.queue]
        return min(waiting, key=lambda host: host.queue[0][:2]) if waiting else None

    def _take(self, host: ScorerHost) -> list[Entry]:
        """The next batch: at least one live entry, as many as fit; empty if all were dead."""
        batch: list[Entry] = []
        pixels, now_s = 0, time.monotonic()
        while host.queue and len(batch) < host.max_batch_items:
            entry = host.queue[0][2]
            is_alive = not entry.future.done() and entry.deadline_s > now_s
            if is_alive and batch and pixels + entry.pixels > host.pixel_budget:
                break
            heapq.heappop(host.queue)
            host.queued_pixels -= entry.pixels
            if is_alive:
                batch.append(entry)
                pixels += entry.pixels
            else:
                self._drop(host, entry)
        return batch

    def _drop(self, host: ScorerHost, entry: Entry) -> None:
        if entry.future.done():
            self._metrics.dropped.labels(host.info.name, "cancelled").inc()
            return
        self._metrics.dropped.labels(host.info.name, "expired").inc()
        entry.future.set_exception(
            Rejection("DEADLINE_EXCEEDED", "EXPIRED_IN_QUEUE", "the deadline passed while the items were queued")
        )

    async def _score_batch(self, host: ScorerHost, batch: list[Entry]) -> None:
        samples, request_ids = [entry.sample for entry in batch], [entry.request_id for entry in batch]
        started_ns = time.perf_counter_ns()
        self._busy_until_s = time.monotonic() + host.service_time.estimate_s(len(batch), 1)
        out_of_memory: list[int] = []
        try:
            model_started_ns, outcomes, model_ended_ns = await self._model_thread.run(
                lambda: (
                    time.perf_counter_ns(),
                    score_isolated(host.scorer, samples, out_of_memory.append, request_ids),
                    time.perf_counter_ns(),
                )
            )
        except Exception as error:  # the batch executor: a defect of ours must not stop the queue
            for entry in batch:
                if not entry.future.done():
                    entry.future.set_exception(error)
            return
        infer_ns = time.perf_counter_ns() - started_ns
        for entry, outcome in zip(batch, outcomes, strict=True):
            if not entry.future.done():
                queue_ns = started_ns - entry.queued_ns
                entry.future.set_result(
                    BatchResult(outcome, queue_ns, infer_ns, len(batch), started_ns, model_started_ns, model_ended_ns)
                )
        self._record(host, batch, started_ns, infer_ns, out_of_memory)

    def _record(
        self, host: ScorerHost, batch: list[Entry], started_ns: int, infer_ns: int, out_of_memory: list[int]
    ) -> None:
        self._busy_until_s = 0.0
        metrics, name = self._metrics, host.info.name
        for failed_pixels in out_of_memory:
            host.lower_budget(failed_pixels)
            metrics.out_of_memory.labels(name).inc()
        metrics.pixel_budget.labels(name).set(host.pixel_budget)
        host.service_time.observe(len(batch), infer_ns / 1e9)
        metrics.infer_s.labels(name).observe(infer_ns / 1e9)
        metrics.batch_items.labels(name).observe(len(batch))
        metrics.batch_pixels.labels(name).observe(sum(entry.pixels for entry in batch))
        queue_s = metrics.queue_s.labels(name)
        for entry in batch:
            queue_s.observe((started_ns - entry.queued_ns) / 1e9)
