"""The path of one call, whichever way it came in: check, admit, measure, decode, queue, answer.

gRPC and HTTP are two doors to the same `ScoringService`; both hand it a `ScoreRequest` and turn its `Rejection`s
into their own kind of error.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

from assay.images import RgbArray
from assay.outcomes import Failed, Outcome
from assay.serving.admission import Admission, Load, Ticket
from assay.serving.batch_spans import record_batches
from assay.serving.batcher import Batcher
from assay.serving.client_limits import ClientShares
from assay.serving.current_call import current_call
from assay.serving.decoding import ImageDecoder, ReceivedImage, read_images
from assay.serving.execution import count_pixels
from assay.serving.metrics import Metrics
from assay.serving.model_thread import ModelThread
from assay.serving.outcome_cache import OutcomeCache, key_of
from assay.serving.recent import Recent
from assay.serving.rejection import Rejection
from assay.serving.scorer import Sample, Scorer, ScorerInfo
from assay.serving.scorer_host import BatchResult, ScorerHost, make_hosts
from assay.serving.settings import ServeConfig
from assay.serving.warm_up import warm_up_sample
from assay.tasks import OutcomeTask
from assay.tracing import span
from assay.v1 import reward_service_pb2 as pb
from assay.wire import get_task, info_to_proto, result_to_proto

logger = logging.getLogger("assay.serving")

MIN_RETRY_S, MAX_RETRY_S = 0.05, 5.0
Images = tuple[ReceivedImage, ...]


class ScoringService:
    """Scorers, their queue and their model thread. Create and use it on one event loop."""

    def __init__(self, scorers: Sequence[Scorer], config: ServeConfig, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self._shares = ClientShares(config.client_limits)
        self._hosts = make_hosts(scorers, config)
        self.recent = Recent(list(self._hosts))
        self.calls_in_flight = 0
        self.admission = Admission(Load(config.max_queued_items, config.max_queued_pixels, config.max_bytes_in_flight))
        self._decoder = ImageDecoder(config.decode_threads)
        self._model_thread = ModelThread()
        self.cache = OutcomeCache(config.max_cache_bytes, self.metrics)
        self._batcher = Batcher(list(self._hosts.values()), self._model_thread, self.metrics, self.cache)
        self.is_draining = False
        self._batching = asyncio.create_task(self._batcher.run())

    @property
    def hosts(self) -> list[ScorerHost]:
        return list(self._hosts.values())

    @property
    def infos(self) -> list[ScorerInfo]:
        return [host.info for host in self._hosts.values()]

    @property
    def is_ready(self) -> bool:
        return all(host.ready for host in self._hosts.values())

    async def warm_up(self) -> None:
        """Score one sample with each scorer. A scorer that raises here would raise for everyone: so does this."""
        for host in self._hosts.values():
            sample = warm_up_sample(host.scorer)
            [outcome] = await self._model_thread.run(lambda host=host, sample=sample: host.scorer.score([sample]))  # type: ignore[misc]
            if isinstance(outcome, Failed):
                logger.warning("%s: the warm-up sample was refused: %s", host.info.name, outcome.message)
            host.ready = True
            self.metrics.scorer_info.labels(host.info.name, host.info.fingerprint).set(1)

    def list_scorers(self) -> pb.ListScorersResponse:
        """Raises: Rejection: UNAVAILABLE: not all scorers are warm yet."""
        if not self.is_ready:
            _refuse_not_ready()
        return pb.ListScorersResponse(scorers=[info_to_proto(info) for info in self.infos])

    async def score(self, request: pb.ScoreRequest, time_remaining_s: float | None) -> pb.ScoreResponse:
        """Answer one call.

        Raises:
            Rejection: the call is refused as a whole.
        """
        name = request.scorer if request.scorer in self._hosts else "(unknown)"
        code, reason = "INTERNAL", "INTERNAL_ERROR"
        self._show_calls(+1)
        try:
            response = await self._score(request, time_remaining_s)
            code, reason = "OK", ""
            return response
        except Rejection as rejection:
            code, reason = rejection.code, rejection.reason
            raise
        except asyncio.CancelledError:
            code, reason = "CANCELLED", ""
            raise
        finally:
            self._show_calls(-1)
            self.metrics.calls.labels(name, code, reason).inc()
            if code not in ("OK", "CANCELLED"):
                self._note_failure(name, code, reason, 0)

    def close(self) -> None:
        """Stop batching; whatever is still queued is cancelled."""
        self._batching.cancel()
        self._model_thread.close()
        self._decoder.close()

    async def _score(self, request: pb.ScoreRequest, time_remaining_s: float | None) -> pb.ScoreResponse:
        started_ns = time.perf_counter_ns()
        deadline_s = math.inf if time_remaining_s is None else time.monotonic() + time_remaining_s
        host = self._host(request)
        with self._shares.take(current_call().caller, len(request.items)):
            with span("admit"):
                images = [read_images(item) for item in request.items]
                image_bytes = _check_size(images, host.info)
                ticket = self.admission.admit(
                    Load(items=len(images), image_bytes=image_bytes), lambda: self._retry_after_s(host)
                )
            self._show_load()
            try:
                with span("decode"):
                    arrays = await self._arrays(host, images, ticket, deadline_s)
                decode_ns = time.perf_counter_ns() - started_ns
                outcomes, scored = await self._outcomes(host, request, arrays, ticket, deadline_s)
            finally:
                ticket.release()
                self._show_load()
        record_batches(scored)
        timing = _timing(scored, decode_ns, started_ns)
        if time_remaining_s:
            self.metrics.deadline_used.labels(host.info.name).observe(timing.total_ns / 1e9 / time_remaining_s)
        return self._response(host, request, outcomes, timing)

    def _host(self, request: pb.ScoreRequest) -> ScorerHost:
        host = self._hosts.get(request.scorer)
        if host is None:
            names = ", ".join(self._hosts)
            raise Rejection(
                "NOT_FOUND",
                "SCORER_NOT_FOUND",
                f"no scorer {request.scorer!r} is served here; there are: {names}",
                {"scorer": request.scorer, "served": names},
            )
        if not host.ready:
            _refuse_not_ready()
        if request.HasField("expected_fingerprint") and request.expected_fingerprint != host.info.fingerprint:
            expected, actual = request.expected_fingerprint, host.info.fingerprint
            raise Rejection(
                "FAILED_PRECONDITION",
                "FINGERPRINT_MISMATCH",
                f"scorer {request.scorer!r} has fingerprint {actual}, expected was {expected}: its scores may differ",
                {"expected": expected, "actual": actual},
            )
        return host

    async def _arrays(
        self, host: ScorerHost, images: list[Images | Failed], ticket: Ticket, deadline_s: float
    ) -> list[tuple[RgbArray, ...] | Failed]:
        """Decode what is worth it: bounds and deadline are checked on the sizes that headers tell."""
        limits = host.info.limits
        measured = await self._decoder.measure(images, limits)
        pixels = [size for size in measured if not isinstance(size, Failed)]
        ticket.add_pixels(sum(pixels), lambda: self._retry_after_s(host))
        if not host.keeps_scores:
            self._check_deadline(host, len(pixels), sum(pixels), deadline_s)
        sound = [size if isinstance(size, Failed) else item for size, item in zip(measured, images, strict=True)]
        return await self._decoder.decode(sound, limits)

    async def _outcomes(
        self,
        host: ScorerHost,
        request: pb.ScoreRequest,
        arrays: list[tuple[RgbArray, ...] | Failed],
        ticket: Ticket,
        deadline_s: float,
    ) -> tuple[list[Outcome], list[BatchResult]]:
        """An outcome for every item; those that can be scored, and whose score is not known, go through the queue."""
        made = [_sample(item, item_arrays, host.info) for item, item_arrays in zip(request.items, arrays, strict=True)]
        samples = [sample for sample in made if isinstance(sample, Sample)]
        keys: list[bytes | None] = [None] * len(samples)
        if host.keeps_scores:
            with span("look up"):
                keys = await self._decoder.run(lambda: [key_of(sample, host.info) for sample in samples])
            self._count_known_out(host, samples, keys, ticket, deadline_s)
        priority = request.priority or pb.PRIORITY_TRAINING
        results = await self._batcher.score(host, samples, keys, priority, deadline_s) if samples else []
        scored = iter(results)
        return [next(scored).outcome if isinstance(entry, Sample) else entry for entry in made], results

    def _count_known_out(
        self,
        host: ScorerHost,
        samples: list[Sample],
        keys: list[bytes | None],
        ticket: Ticket,
        deadline_s: float,
    ) -> None:
        """Items whose score is known are no work: neither do they fill the queue, nor can they be late.

        Their pixels stay counted: they are in memory until the call is answered. Nor is what the model has now, or what
        the call holds twice, work of its own.
        """
        ticket.give_back(Load(items=sum(key in self.cache for key in keys)))
        self._show_load()
        new = {
            key: count_pixels(sample)
            for sample, key in zip(samples, keys, strict=True)
            if key not in self.cache and not self._batcher.is_scoring(key)
        }
        if new:
            self._check_deadline(host, len(new), sum(new.values()), deadline_s)

    def _check_deadline(self, host: ScorerHost, items: int, pixels: int, deadline_s: float) -> None:
        """Raises: Rejection: DEADLINE_TOO_SHORT: the queue, and these items in it, would take longer."""
        eta_s = self._batcher.eta_s(host, items, pixels)
        remaining_s = deadline_s - time.monotonic()
        if eta_s > remaining_s:
            raise Rejection(
                "DEADLINE_EXCEEDED",
                "DEADLINE_TOO_SHORT",
                f"scoring would take about {eta_s:.2f} s, the deadline is in {remaining_s:.2f} s",
                {"eta_s": f"{eta_s:.3f}", "remaining_s": f"{remaining_s:.3f}"},
            )

    def _response(
        self, host: ScorerHost, request: pb.ScoreRequest, outcomes: list[Outcome], timing: pb.Timing
    ) -> pb.ScoreResponse:
        with_evidence = request.evidence_level == pb.EVIDENCE_LEVEL_FULL
        name = host.info.name
        tally = Counter((o.code, o.reason) if isinstance(o, Failed) else ("OK", "") for o in outcomes)
        for labels, count in tally.items():
            self.metrics.items.labels(name, *labels).inc(count)
            if labels[0] != "OK":
                self._note_failure(name, *labels, count)
        self.recent.calls[name].add(len(outcomes), timing)
        self.metrics.decode_s.labels(name).observe(timing.decode_ns / 1e9)
        self.metrics.call_s.labels(name).observe(timing.total_ns / 1e9)
        return pb.ScoreResponse(
            results=[
                result_to_proto(item.id, outcome, with_evidence)
                for item, outcome in zip(request.items, outcomes, strict=True)
            ],
            scorer_fingerprint=host.info.fingerprint,
            timing=timing,
        )

    def _retry_after_s(self, host: ScorerHost) -> float:
        """Half the queue's time: by then there is room again."""
        return min(max(self._batcher.eta_s(host, 0, 0) / 2, MIN_RETRY_S), MAX_RETRY_S)

    def _note_failure(self, scorer: str, code: str, reason: str, items: int) -> None:
        request_id = current_call().request_id
        self.recent.fail(scorer, code, reason, items, request_id)
        what = f"{items} items failed" if items else "a call was refused"
        # An overloaded server refuses thousands; they are counted, not told one by one.
        level = {"UNAVAILABLE": logging.DEBUG, "INTERNAL": logging.ERROR}.get(code, logging.WARNING)
        logger.log(level, "%s: %s: %s %s", scorer, what, code, reason)

    def _show_calls(self, change: int) -> None:
        self.calls_in_flight += change
        self.metrics.calls_in_flight.set(self.calls_in_flight)

    def _show_load(self) -> None:
        held = self.admission.current
        self.metrics.held.labels("items").set(held.items)
        self.metrics.held.labels("pixels").set(held.pixels)
        self.metrics.held.labels("image_bytes").set(held.image_bytes)


def _check_size(images: Sequence[Images | Failed], info: ScorerInfo) -> int:
    """Image bytes of a call. Raises: Rejection: it exceeds the scorer's limits, or is empty."""
    limits = info.limits
    if not images:
        raise Rejection("INVALID_ARGUMENT", "NO_ITEMS", "the request has no items")
    if len(images) > limits.max_items:
        raise Rejection(
            "INVALID_ARGUMENT",
            "TOO_MANY_ITEMS",
            f"the request has {len(images)} items; {info.name} takes at most {limits.max_items} a call",
            {"items": str(len(images)), "limit": str(limits.max_items)},
        )
    image_bytes = sum(len(image.data) for item in images if not isinstance(item, Failed) for image in item)
    if image_bytes > limits.max_bytes_per_call:
        raise Rejection(
            "INVALID_ARGUMENT",
            "TOO_MANY_BYTES",
            f"the images have {image_bytes} bytes; {info.name} takes at most {limits.max_bytes_per_call} a call",
            {"bytes": str(image_bytes), "limit": str(limits.max_bytes_per_call)},
        )
    return image_bytes


def _sample(item: pb.ScoreItem, arrays: tuple[RgbArray, ...] | Failed, info: ScorerInfo) -> Sample | Failed:
    if isinstance(arrays, Failed):
        return arrays
    task = get_task(item)
    if task is None and "OutcomeTask" in info.tasks:
        task = OutcomeTask()  # an image with its prompt asks just that
    if info.tasks and type(task).__name__ not in info.tasks:
        given = "has no task" if task is None else f"has a {type(task).__name__}"
        reason = "TASK_MISSING" if task is None else "TASK_UNSUPPORTED"
        return Failed("INVALID_ARGUMENT", reason, f"the item {given}; {info.name} judges {', '.join(info.tasks)}")
    return Sample(item.id, arrays, item.prompt, task)


def _timing(results: Sequence[BatchResult], decode_ns: int, started_ns: int) -> pb.Timing:
    return pb.Timing(
        queue_ns=max((result.queue_ns for result in results), default=0),
        decode_ns=decode_ns,
        infer_ns=max((result.infer_ns for result in results), default=0),
        total_ns=time.perf_counter_ns() - started_ns,
        batch_items=max((result.batch_items for result in results), default=0),
        spared_items=sum(result.spared for result in results),
    )


def _refuse_not_ready() -> NoReturn:
    raise Rejection("UNAVAILABLE", "NOT_READY", "the service is still warming up", retry_after_s=0.5)
