"""Prometheus metrics of a server, in a registry of its own (a process may hold several servers, as tests do)."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_PIXELS = tuple(4**power for power in range(6, 16))
_RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1)


class Metrics:
    """All metrics, one attribute each.

    A counter with labels appears with its first event, and Prometheus sees no growth in what it never saw smaller.
    Those that alerts want the growth of are therefore made to appear at 0, by whoever knows their labels.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.calls = Counter(
            "assay_calls", "Score calls by status code and reason", ["scorer", "code", "reason"], registry=registry
        )
        self.items = Counter("assay_items", "Items by outcome", ["scorer", "code", "reason"], registry=registry)
        self.dropped = Counter(
            "assay_dropped_items", "Items that left the queue unscored", ["scorer", "why"], registry=registry
        )
        self.cache_items = Counter(
            "assay_cache_items", "Items of a scorer whose scores are kept", ["scorer", "result"], registry=registry
        )
        self.cache_entries = Gauge("assay_cache_entries", "Scores that are kept", registry=registry)
        self.cache_bytes = Gauge("assay_cache_bytes", "What they take", registry=registry)
        self.out_of_memory = Counter(
            "assay_out_of_memory", "Batches that did not fit in memory", ["scorer"], registry=registry
        )
        self.call_s = Histogram(
            "assay_call_seconds", "From arrival to response", ["scorer"], buckets=_SECONDS, registry=registry
        )
        self.queue_s = Histogram(
            "assay_queue_seconds", "An item's wait for its batch", ["scorer"], buckets=_SECONDS, registry=registry
        )
        self.decode_s = Histogram(
            "assay_decode_seconds", "Decoding the images of a call", ["scorer"], buckets=_SECONDS, registry=registry
        )
        self.infer_s = Histogram(
            "assay_infer_seconds", "The model's time for a batch", ["scorer"], buckets=_SECONDS, registry=registry
        )
        self.batch_items = Histogram(
            "assay_batch_items", "Items in a batch", ["scorer"], buckets=_ITEMS, registry=registry
        )
        self.batch_pixels = Histogram(
            "assay_batch_pixels", "Pixels in a batch", ["scorer"], buckets=_PIXELS, registry=registry
        )
        self.held = Gauge("assay_held", "Admitted and not yet answered", ["what"], registry=registry)
        self.pixel_budget = Gauge("assay_pixel_budget", "Pixels a batch may hold", ["scorer"], registry=registry)
        self.calls_in_flight = Gauge("assay_calls_in_flight", "Calls that are being answered", registry=registry)
        self.deadline_used = Histogram(
            "assay_deadline_used_ratio",
            "What an answered call took of the time its caller gave it",
            ["scorer"],
            buckets=_RATIOS,
            registry=registry,
        )
        self.failed_authentications = Counter(
            "assay_failed_authentications", "Calls without a right token", ["door", "why"], registry=registry
        )
        self.tls_handshakes = Counter(
            "assay_tls_handshakes", "TLS handshakes that were begun", ["door"], registry=registry
        )
        self.failed_reloads = Counter(
            "assay_failed_reloads", "Changed files that could not be taken over", ["what"], registry=registry
        )
        self.scorer_info = Gauge(
            "assay_scorer_info", "1 for each scorer that is ready", ["scorer", "fingerprint"], registry=registry
        )

    def exposition(self) -> bytes:
        """All values in Prometheus' text format."""
        return generate_latest(self.registry)
