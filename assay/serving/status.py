"""What `/v1/status` tells: the state of a server now, as JSON. Of what was scored it tells nothing."""

from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Histogram

from assay.serving.scorer_host import ScorerHost

if TYPE_CHECKING:
    from assay.serving.service import ScoringService


def status_of(service: "ScoringService") -> dict[str, Any]:
    """The whole of it."""
    recent, metrics = service.recent, service.metrics
    held, bounds = service.admission.current, service.admission.bounds
    return {
        "version": version("assay"),
        "state": "draining" if service.is_draining else "ready" if service.is_ready else "warming up",
        "time_s": recent.clock(),
        "uptime_s": recent.clock() - recent.started_s,
        "held": {
            name: {"now": getattr(held, name), "limit": getattr(bounds, name)}
            for name in ("items", "pixels", "image_bytes")
        },
        "calls_in_flight": service.calls_in_flight,
        "cache": {
            "scores": len(service.cache),
            "bytes": {"now": service.cache.bytes, "limit": service.cache.max_bytes},
            "items": _counted(metrics.cache_items),
        },
        "scorers": [_scorer(service, host) for host in service.hosts],
        "calls": _counted(metrics.calls),
        "items": _counted(metrics.items),
        "dropped_items": _counted(metrics.dropped),
        "failed_authentications": _counted(metrics.failed_authentications),
        "recent_failures": [asdict(failure) for failure in reversed(recent.failures)],
    }


def _scorer(service: "ScoringService", host: ScorerHost) -> dict[str, Any]:
    name = host.info.name
    calls = service.recent.calls[name]
    return {
        "name": name,
        "fingerprint": host.info.fingerprint,
        "ready": host.ready,
        "queued_items": len(host.queue),
        "queued_pixels": host.queued_pixels,
        "items_per_second": calls.items_per_second(),
        "latency_ms": calls.latency_ms(),
        "batches": _buckets(service.metrics.batch_items, name),
    }


def _counted(counter: Counter) -> list[dict[str, Any]]:
    """Every combination of labels that was counted, and how often."""
    return [
        {**sample.labels, "count": int(sample.value)}
        for sample in _samples(counter)
        if sample.name.endswith("_total") and sample.value
    ]


def _buckets(histogram: Histogram, scorer: str) -> list[dict[str, Any]]:
    """Batches by size: `up_to` is the largest size of a bucket, None in the last."""
    cumulative = [
        (sample.labels["le"], int(sample.value))
        for sample in _samples(histogram)
        if sample.name.endswith("_bucket") and sample.labels["scorer"] == scorer
    ]
    counts = [count for _, count in cumulative]
    return [
        {"up_to": None if bound == "+Inf" else int(float(bound)), "batches": count - before}
        for (bound, count), before in zip(cumulative, [0, *counts], strict=False)
    ]


def _samples(metric: Counter | Histogram) -> Iterable[Any]:
    return [sample for family in metric.collect() for sample in family.samples]
