"""What was measured, as a table for people and as CSV and JSON for programs."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.bench.measurement import Measurement
from assay.bench.windows import WINDOWS, merge, percentile
from assay.errors import ConfigError
from assay.files import write_whole

FORMATS = (".csv", ".json")


@dataclass(frozen=True)
class Row:
    """One level. All but `failures`, `retried` and `hedged`, which are of the whole level, is of the last windows.

    Args:
        load: `concurrency` or `rate`, with `value`.
        stable: whether the last windows agreed.
        seconds, requests: how long was measured, and how many requests were answered.
        images_per_s: images with a score.
        p50_ms, p90_ms, p95_ms, p99_ms: of the latency of answered requests.
        queue_ms, decode_ms, infer_ms: mean of what the service says of its part.
        other_ms: mean of the rest of a call: in the client, on the way, and in the service beside the three.
        batch_items: mean of the items that the model got at once, over the calls of which it got any.
        send_lag_p99_ms: how late requests were sent; much of it means that the measuring machine was the limit.
        failures: images without a score.
        retried, hedged: attempts that the client made again, and second copies of late calls.
    """

    load: str
    value: float
    stable: bool
    seconds: float
    requests: int
    images_per_s: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    queue_ms: float
    decode_ms: float
    infer_ms: float
    other_ms: float
    batch_items: float
    send_lag_p99_ms: float
    failures: int
    retried: int
    hedged: int


def row(measured: Measurement) -> Row:
    """The last windows together."""
    last = merge(measured.windows[-WINDOWS:])
    return Row(
        load=measured.level.kind,
        value=measured.level.value,
        stable=measured.is_stable,
        seconds=last.seconds,
        requests=len(last.latencies_s),
        images_per_s=last.images_per_s,
        p50_ms=percentile(last.latencies_s, 0.50) * 1e3,
        p90_ms=percentile(last.latencies_s, 0.90) * 1e3,
        p95_ms=percentile(last.latencies_s, 0.95) * 1e3,
        p99_ms=percentile(last.latencies_s, 0.99) * 1e3,
        queue_ms=1e3 * _mean(call.queue_s for call in last.calls),
        decode_ms=1e3 * _mean(call.decode_s for call in last.calls),
        infer_ms=1e3 * _mean(call.infer_s for call in last.calls),
        other_ms=1e3 * _mean(call.seconds - call.queue_s - call.decode_s - call.infer_s for call in last.calls),
        batch_items=_mean(call.batch_items for call in last.calls if call.batch_items),
        send_lag_p99_ms=percentile(last.lags_s, 0.99) * 1e3,
        failures=merge(measured.windows).failures.total(),
        retried=measured.client.retried if measured.client else 0,
        hedged=measured.client.hedged if measured.client else 0,
    )


def as_text(measurements: Sequence[Measurement]) -> str:
    """A line a level, then what failed."""
    lines = [_HEADER]
    for measured in measurements:
        one = row(measured)
        state = "" if one.stable else f"  {_state(measured)}"
        lines.append(
            f"{measured.level!s:<16}{one.requests:>9}{one.images_per_s:>10.1f}"
            f"{one.p50_ms:>9.2f}{one.p90_ms:>9.2f}{one.p95_ms:>9.2f}{one.p99_ms:>9.2f}"
            f"{one.queue_ms:>9.2f}{one.decode_ms:>9.2f}{one.infer_ms:>9.2f}{one.other_ms:>9.2f}"
            f"{one.batch_items:>7.1f}{one.failures:>9}{state}"
        )
    for measured in measurements:
        for (code, reason), count in merge(measured.windows).failures.most_common():
            lines.append(f"{measured.level}: {count} images failed: {code} {reason}".rstrip())
    return "\n".join(lines)


def as_json(measurements: Sequence[Measurement], about: Mapping[str, Any]) -> str:
    """`about` the service and the load, and the levels with their failures. What is no number is null."""
    levels = [{**_without_nan(row(measured)), "failed": _failed(measured)} for measured in measurements]
    return json.dumps({**about, "levels": levels}, indent=2)


def as_csv(measurements: Sequence[Measurement]) -> str:
    """A line a level; what is no number is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_without_nan(row(measured)) for measured in measurements)
    return text.getvalue()


def check_format(path: Path) -> Path:
    """Raises: ConfigError: it would be neither CSV nor JSON, or lies in no folder."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"--output {path}: the name must end in one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--output {path}: there is no folder {path.parent}")
    return path


def write(path: Path, measurements: Sequence[Measurement], about: Mapping[str, Any]) -> None:
    """As CSV or JSON, as the name says."""
    write_whole(path, as_csv(measurements) if path.suffix == ".csv" else as_json(measurements, about) + "\n")


_HEADER = (
    f"{'load':<16}{'requests':>9}{'images/s':>10}{'p50 ms':>9}{'p90':>9}{'p95':>9}{'p99':>9}"
    f"{'queue':>9}{'decode':>9}{'infer':>9}{'other':>9}{'batch':>7}{'failures':>9}"
)


def _state(measured: Measurement) -> str:
    if measured.was_interrupted:
        return "interrupted"
    return "not stable" if measured.windows[-1].latencies_s else "no answers at the end"


def _failed(measured: Measurement) -> list[dict[str, Any]]:
    failures = merge(measured.windows).failures
    return [{"code": code, "reason": reason, "images": count} for (code, reason), count in failures.most_common()]


def _without_nan(one: Row) -> dict[str, Any]:
    fields = dataclasses.asdict(one)
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else math.nan
