"""Batching: one queue for all scorers of a process, one batch at a time, formed the moment the model is free.

No timer: while the model works, items gather by themselves. A batch takes the most urgent items of one scorer
(training before evaluation before batch work, then first come first served) up to a budget in pixels. Items whose
caller has gone, or whose deadline has passed, leave the queue unscored.

Where scores are kept (`assay.serving.outcome_cache`), an item whose score is known by the time its turn comes is given
it, and equal items of a batch are one to the model. Each waits with a deadline and an urgency of its own until then:
that one is cancelled changes nothing for the others.
"""

import asyncio
import logging
import time
from collections.abc import Sequence

from assay.outcomes import Outcome
from assay.serving.current_call import current_call
from assay.serving.execution import count_pixels, score_isolated
from assay.serving.metrics import Metrics
from assay.serving.model_thread import ModelThread
from assay.serving.outcome_cache import OutcomeCache
from assay.serving.rejection import Rejection
from assay.serving.scorer import Sample
from assay.serving.scorer_host import BatchResult, Entry, ScorerHost

logger = logging.getLogger("assay.serving")


class Batcher:
    """Feeds the model thread. Use it from one event loop; `run` must be running as a task."""

    def __init__(
        self, hosts: Sequence[ScorerHost], model_thread: ModelThread, metrics: Metrics, cache: OutcomeCache
    ) -> None:
        self._hosts = hosts
        self._cache = cache
        self._model_thread = model_thread
        self._metrics = metrics
        self._sequence = 0
        self._work_arrived = asyncio.Event()
        self._busy_until_s = 0.0
        self._keys_in_model: frozenset[bytes | None] = frozenset()
        for host in hosts:
            metrics.out_of_memory.labels(host.info.name)  # 0 from the start: see Metrics

    def is_scoring(self, key: bytes | None) -> bool:
        """Whether the model has an item of this key now."""
        return key is not None and key in self._keys_in_model

    def eta_s(self, host: ScorerHost, items: int, pixels: int) -> float:
        """Seconds until items that join now would be scored, if nothing more urgent comes."""
        running_s = max(0.0, self._busy_until_s - time.monotonic())
        others_s = sum(other.estimate_s() for other in self._hosts if other is not host)
        return running_s + others_s + host.estimate_s(items, pixels)

    async def score(
        self,
        host: ScorerHost,
        samples: Sequence[Sample],
        keys: Sequence[bytes | None],
        priority: int,
        deadline_s: float,
    ) -> list[BatchResult]:
        """Queue samples and wait for their results, in order. Cancelling takes them out of the queue.

        Args:
            host: whose queue.
            samples: what to score.
            keys: what each score is kept under, None for none. Those that are known by now do not join the queue.
            priority: the lowest goes first.
            deadline_s: on the monotonic clock.

        Raises:
            Rejection: DEADLINE_EXCEEDED: the deadline passed while they were queued.
        """
        loop, now_ns = asyncio.get_running_loop(), time.perf_counter_ns()
        futures, request_id = [], current_call().request_id
        for sample, key in zip(samples, keys, strict=True):
            entry = Entry(sample, count_pixels(sample), deadline_s, now_ns, request_id, key, loop.create_future())
            futures.append(entry.future)
            if not self._answer_known(host, entry):
                self._sequence += 1
                host.push(priority, self._sequence, entry)
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
            else:  # many were known: others want the event loop, too
                await asyncio.sleep(0)

    def _most_urgent(self) -> ScorerHost | None:
        waiting = [host for host in self._hosts if host.queue]
        return min(waiting, key=lambda host: host.queue[0][:2]) if waiting else None

    def _take(self, host: ScorerHost) -> list[Entry]:
        """The next batch: as many live entries as fit. Empty if all were dead or known, or very many were known."""
        batch: list[Entry] = []
        firsts: dict[bytes | None, Entry] = {}
        pixels, known, now_s = 0, 0, time.monotonic()
        while host.queue and len(batch) < host.max_batch_items and known < host.max_batch_items:
            entry = host.queue[0][2]
            if entry.future.done() or entry.deadline_s <= now_s:
                self._drop(host, host.pop())
            elif self._answer_known(host, entry):
                host.pop()
                known += 1
            elif entry.key in firsts:
                firsts[entry.key].twins.append(host.pop())
            elif batch and pixels + entry.pixels > host.pixel_budget:
                break
            else:
                batch.append(host.pop())
                pixels += entry.pixels
                if entry.key is not None:
                    firsts[entry.key] = entry
        return batch

    def _answer_known(self, host: ScorerHost, entry: Entry) -> bool:
        """Whether the entry's score is known, and was given to it."""
        outcome = self._cache.get(entry.key)
        if outcome is None:
            return False
        now_ns = time.perf_counter_ns()
        queue_ns = now_ns - entry.queued_ns
        entry.future.set_result(BatchResult(outcome, queue_ns, 0, 0, now_ns, now_ns, now_ns, spared=True))
        self._metrics.cache_items.labels(host.info.name, "hit").inc()
        return True

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
        self._keys_in_model = frozenset(entry.key for entry in batch)
        out_of_memory: list[int] = []
        try:
            model_started_ns, outcomes, model_ended_ns = await self._model_thread.run(
                lambda: (
                    time.perf_counter_ns(),
                    score_isolated(host.scorer, samples, out_of_memory.append, request_ids),
                    time.perf_counter_ns(),
                )
            )
            infer_ns = time.perf_counter_ns() - started_ns
            self._hand_out(batch, outcomes, infer_ns, (started_ns, model_started_ns, model_ended_ns))
            self._record(host, batch, started_ns, infer_ns, out_of_memory)
        except Exception as error:  # the batch executor: a defect of ours must not stop the queue
            logger.exception("%s: a batch of %d failed", host.info.name, len(batch))
            for entry in _with_twins(batch):
                if not entry.future.done():
                    entry.future.set_exception(error)
        finally:
            self._busy_until_s, self._keys_in_model = 0.0, frozenset()

    def _hand_out(
        self, batch: list[Entry], outcomes: list[Outcome], infer_ns: int, stamps: tuple[int, int, int]
    ) -> None:
        for first, outcome in zip(batch, outcomes, strict=True):
            if first.key is not None:
                self._cache.put(first.key, outcome)
            for entry in (first, *first.twins):
                if not entry.future.done():
                    times = stamps[0] - entry.queued_ns, infer_ns, len(batch)
                    entry.future.set_result(BatchResult(outcome, *times, *stamps, spared=entry is not first))

    def _record(
        self, host: ScorerHost, batch: list[Entry], started_ns: int, infer_ns: int, out_of_memory: list[int]
    ) -> None:
        metrics, name = self._metrics, host.info.name
        for failed_pixels in out_of_memory:
            host.lower_budget(failed_pixels)
            metrics.out_of_memory.labels(name).inc()
        metrics.pixel_budget.labels(name).set(host.pixel_budget)
        host.service_time.observe(len(batch), infer_ns / 1e9)
        metrics.infer_s.labels(name).observe(infer_ns / 1e9)
        metrics.batch_items.labels(name).observe(len(batch))
        metrics.batch_pixels.labels(name).observe(sum(entry.pixels for entry in batch))
        if host.keeps_scores:
            metrics.cache_items.labels(name, "miss").inc(len(batch))
            metrics.cache_items.labels(name, "shared").inc(sum(len(entry.twins) for entry in batch))
        queue_s = metrics.queue_s.labels(name)
        for entry in _with_twins(batch):
            queue_s.observe((started_ns - entry.queued_ns) / 1e9)


def _with_twins(batch: Sequence[Entry]) -> list[Entry]:
    return [entry for first in batch for entry in (first, *first.twins)]
