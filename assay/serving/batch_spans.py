"""Spans of queue, batch and model, made when a call is over: a batch serves many calls, each of its own trace."""

from collections.abc import Sequence

from assay.serving.scorer_host import BatchResult
from assay.tracing import record_span


def record_batches(results: Sequence[BatchResult]) -> None:
    """Under the current span: for each batch that items of the call were in, their wait for it, and its time."""
    firsts: dict[int, BatchResult] = {}
    for result in results:
        if result.batch_items:
            firsts.setdefault(result.started_ns, result)
    for result in firsts.values():
        ended_ns = result.started_ns + result.infer_ns
        record_span("queue", result.started_ns - result.queue_ns, result.started_ns)
        batch = record_span("batch", result.started_ns, ended_ns, **{"assay.batch_items": result.batch_items})
        record_span("model", result.model_started_ns, result.model_ended_ns, batch)
