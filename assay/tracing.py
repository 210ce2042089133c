"""Traces in W3C's trace context, by OpenTelemetry where that is installed; elsewhere every function here does nothing.

A client puts `inject()` into the metadata of its calls; a server opens a `server_span` from what it gets. Where spans
go is said by OpenTelemetry's own variables (`OTEL_TRACES_EXPORTER`, `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`,
`OTEL_TRACES_SAMPLER`); with none of the first two set, nowhere.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from assay.errors import ConfigError

try:
    from opentelemetry import propagate, trace
except ImportError:
    _is_installed = False
else:
    _is_installed = True

_EXPORT_VARIABLES = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NAME = "assay"


def inject() -> tuple[tuple[str, str], ...]:
    """The current span as gRPC metadata, (("traceparent", "00-..."),); empty where there is none."""
    if not _is_installed:
        return ()
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


@contextmanager
def server_span(name: str, headers: Mapping[str, str], **attributes: str | int) -> Iterator[str | None]:
    """A span for a call that came in, child of the one in its headers; gives the id of the trace, None without one."""
    if not _is_installed:
        yield None
        return
    parent, tracer = propagate.extract(headers), trace.get_tracer(_NAME)
    kind = trace.SpanKind.SERVER
    with tracer.start_as_current_span(name, context=parent, kind=kind, attributes=attributes) as current:
        trace_id = current.get_span_context().trace_id
        yield trace.format_trace_id(trace_id) if trace_id else None


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[None]:
    """A part of what the current span does, or the beginning of a trace where there is none."""
    if not _is_installed:
        yield
        return
    with trace.get_tracer(_NAME).start_as_current_span(name, attributes=attributes):
        yield


def record_span(name: str, started_ns: int, ended_ns: int, parent: Any = None, **attributes: int) -> Any:
    """A part that is over, child of `parent` or of the current span; times are of `time.perf_counter_ns`.

    Returns:
        The span, to be the parent of others.
    """
    if not _is_installed:
        return None
    to_epoch_ns = time.time_ns() - time.perf_counter_ns()
    context = trace.set_span_in_context(parent) if parent is not None else None
    recorded = trace.get_tracer(_NAME).start_span(
        name, context=context, start_time=started_ns + to_epoch_ns, attributes=attributes
    )
    recorded.end(ended_ns + to_epoch_ns)
    return recorded


def configure_tracing(service_name: str = _NAME) -> None:
    """Send the spans of this process where the OTEL_* variables say, as `service_name` if they name none.

    Raises:
        ConfigError: they name an exporter that is not there.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if exporter == "none" or not any(os.environ.get(name) for name in _EXPORT_VARIABLES):
        return
    if exporter not in ("otlp", "console"):
        raise ConfigError(f"OTEL_TRACES_EXPORTER = {exporter}; allowed: otlp, console, none", reason="CONFIG_INVALID")
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(f"traces are asked for; install assay[otel] ({error})", reason="EXTRA_MISSING") from error
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service_name}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(_exporter(exporter)))
    trace.set_tracer_provider(provider)


def _exporter(name: str) -> Any:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
