"""One run of `assay bench`: read the flags, find the scorer, measure each level, report."""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import typer

from assay.bench.measurement import Bench, Level, Measurement
from assay.bench.payload import Payload, images_of, made_images, tasks_of
from assay.bench.report import as_json, as_text, check_format, write
from assay.bench.windows import merge
from assay.client import MIB, RewardClient
from assay.client_token import token_arguments
from assay.errors import ConfigError, InvalidRequestError
from assay.score_command import Wanted
from assay.serving.scorer import ScorerInfo
from assay.statistics import AnsweredCall
from assay.tasks import Task

INTERRUPTED = 130
MAX_BYTES_IN_FLIGHT = 1024 * MIB


@dataclass(frozen=True)
class Options:
    """The flags of the command, which explains them."""

    target: list[str] | None
    scorer: str | None
    concurrency: str | None
    rate: str | None
    batch: int
    images: Path | None
    size: str
    content: str
    encoding: str
    prompt: str | None
    class_name: str | None
    count: int | None
    color: str | None
    relation: tuple[str, str, str] | None
    question: str | None
    metadata: Path | None
    window_s: float
    max_windows: int
    deadline_s: float
    hedge_budget: float
    seed: int
    token: str | None
    tls_ca: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    output: list[Path] | None
    as_json: bool

    def connect(self, on_call: Callable[[AnsweredCall], None] | None = None) -> RewardClient:
        return RewardClient(
            self.target or ["localhost:50051"],
            **token_arguments(self.token),
            tls_ca=self.tls_ca,
            tls_certificate=self.tls_certificate,
            tls_key=self.tls_key,
            deadline_s=self.deadline_s,
            max_bytes_in_flight=MAX_BYTES_IN_FLIGHT,
            batch_items=self.batch,
            encoding=self.encoding,
            hedge_budget=self.hedge_budget,
            on_call=on_call,
        )


def run(options: Options) -> int:
    """Measure and print. Returns: the exit code.

    Raises:
        AssayError: a flag makes no sense, or there is no service, or none that judges such tasks.
    """
    outputs = [check_format(path) for path in options.output or ()]
    wanted_levels = levels(options.concurrency, options.rate)
    payload = Payload(_images(options), _asked(options))
    info = _scorer(options, payload.asked[0][1])
    about = _about(options, info)
    if not options.as_json:
        typer.echo(", ".join(f"{name} {value}" for name, value in about.items()))
    bench = Bench(
        options.connect, info.name, payload, options.batch, options.window_s, options.max_windows, options.seed
    )
    measurements = _measure(bench, wanted_levels)
    typer.echo(as_json(measurements, about) if options.as_json else as_text(measurements))
    for path in outputs:
        write(path, measurements, about)
    if any(measured.was_interrupted for measured in measurements):
        return INTERRUPTED
    return int(
        any(merge(measured.windows).failures or not measured.windows[-1].latencies_s for measured in measurements)
    )


def levels(concurrency: str | None, rate: str | None) -> list[Level]:
    """Raises: ConfigError: names the flag and what it takes."""
    if concurrency is None and rate is None:
        concurrency = "1,8"
    at_once = [Level("concurrency", number) for number in _numbers("--concurrency", concurrency, int)]
    return at_once + [Level("rate", number) for number in _numbers("--rate", rate, float)]


def width_and_height(size: str) -> tuple[int, int]:
    """Raises: ConfigError: it is not of the form WIDTHxHEIGHT."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", size)
    if match is None:
        raise ConfigError(f"--size {size}: must be WIDTHxHEIGHT in pixels, e.g. 512x512")
    return int(match[1]), int(match[2])


def _measure(bench: Bench, wanted: Sequence[Level]) -> list[Measurement]:
    """All levels, or those until Ctrl-C."""
    measurements: list[Measurement] = []
    with typer.progressbar(length=len(wanted) * bench.max_windows, file=sys.stderr) as bar:

        def show(measured: Measurement) -> None:
            bar.label = f"{measured.level}: {measured.windows[-1].images_per_s:.1f} images/s"
            bar.update(1)

        for number, level in enumerate(wanted, start=1):
            measurements.append(bench.measure(level, show))
            if measurements[-1].was_interrupted:
                break
            bar.update(number * bench.max_windows - bar.pos)  # a stable level is done before its time
    return measurements


def _images(options: Options) -> Sequence[Any]:
    if options.images is not None:
        return images_of(options.images)
    if options.content not in ("noise", "solid"):
        raise ConfigError(f"--content {options.content}: must be noise or solid")
    content = cast("Literal['noise', 'solid']", options.content)
    return made_images(content, *width_and_height(options.size), options.batch)


def _asked(options: Options) -> list[tuple[str, Task | None]]:
    wanted = Wanted(
        options.prompt, options.class_name, options.count, options.color, options.relation, None, options.question
    )
    if options.metadata is not None:
        if wanted != Wanted():
            raise ConfigError("--metadata says what to judge: leave out the flags that say it, too")
        return tasks_of(options.metadata)
    if wanted == Wanted():
        wanted = Wanted(class_name="apple", count=3)
    return [(wanted.prompt_text(), wanted.task())]


def _scorer(options: Options, task: Task | None) -> ScorerInfo:
    """The scorer that was named, or the first that judges such tasks. Waits for the service."""
    with options.connect() as client:
        infos = client.wait_until_ready(options.deadline_s)
    judges = [info for info in infos if not info.tasks or type(task).__name__ in info.tasks]
    fitting = [info for info in judges if options.scorer in (None, info.name)]
    if not fitting:
        served = ", ".join(f"{info.name} ({', '.join(info.tasks) or 'any task'})" for info in infos)
        name = "no scorer there" if options.scorer is None else f"no scorer {options.scorer!r} there"
        raise InvalidRequestError(f"{name} judges a {type(task).__name__}; served are: {served}")
    return fitting[0]


def _about(options: Options, info: ScorerInfo) -> dict[str, Any]:
    made = f"{options.content} {options.size} as {options.encoding}"
    return {
        "service": ",".join(options.target or ["localhost:50051"]),
        "scorer": info.name,
        "fingerprint": info.fingerprint,
        "images": made if options.images is None else f"files of {options.images}",
        "batch": options.batch,
    }


def _numbers(flag: str, text: str | None, kind: Callable[[str], float]) -> list[float]:
    if text is None:
        return []
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < float("inf") for value in values):
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{flag} {text}: must be {what} above 0 with commas between")
    return values
