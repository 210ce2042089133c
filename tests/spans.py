"""Spans that this process ends, and those that another one printed. A process has one provider, whoever asks for it."""

import json
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


def keep_spans() -> InMemorySpanExporter:
    """What ends from now on."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


def printed_spans(output: str) -> list[dict[str, Any]]:
    """Those among all else that a process with OTEL_TRACES_EXPORTER=console printed."""
    found, decoder = [], json.JSONDecoder()
    start = output.find('{\n    "name"')
    while start >= 0:
        span, end = decoder.raw_decode(output, start)
        found.append(span)
        start = output.find('{\n    "name"', end)
    return found
