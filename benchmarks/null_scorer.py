"""What serving costs beside the model: a scorer that does nothing, called in process and over loopback.

    python benchmarks/null_scorer.py [--calls 2000] [--side 512]

The server runs in a second process. Rows: one raw image a call, and batches of 16, one call at a time (closed loop,
concurrency 1), then several at a time. "in process" calls the scorer with the same arrays. It measures neither
codecs nor a network. Ratios travel from machine to machine better than times do.
"""

import argparse
import concurrent.futures
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from assay.client import RewardClient
from assay.outcomes import Outcome, Scored
from assay.serving.lifecycle import ServeConfig, serve
from assay.serving.scorer import Sample, ScorerInfo


class NullScorer:
    """Scores everything 1, looking at nothing."""

    info = ScorerInfo("null", "0", (1.0, 1.0), True, ())

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        return [Scored(1.0) for _ in batch]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve([NullScorer()], ServeConfig(grpc_port=0, http_port=None, ready_file=arguments.serve))
    with tempfile.TemporaryDirectory() as folder:
        ready_file = Path(folder) / "ready.json"
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(ready_file)], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        target = server.stdout.readline().split("grpc=")[1].split()[0]
        try:
            report(target, arguments.side, arguments.calls)
        finally:
            server.terminate()
            server.wait()
    return 0


def report(target: str, side: int, calls: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, raw {side} x {side} images\n")
    print(f"{'case':<34}{'calls':>7}{'p50 ms':>9}{'p99 ms':>9}{'ms/image':>10}{'x in process':>14}")
    scorer = NullScorer()
    with RewardClient([target]) as client:
        for size in (1, 16):
            images = [image] * size
            samples = [Sample(str(index), (image,), "", None) for index in range(size)]
            few = max(calls // size, 50)
            base = times(lambda samples=samples: scorer.score(samples), few)
            row(f"in process, {size} a call", base, size, base)
            row(f"loopback, {size} a call", times(lambda images=images: score(client, images), few), size, base)
        in_process = statistics.median(base) / 16
    with RewardClient([target]) as client:
        for workers in (4, 8):
            per_image = concurrent_ms_per_image(client, [image] * 16, workers, max(calls // 16, 50))
            print(
                f"{f'loopback, 16 a call, {workers} at once':<34}{'':>25}{per_image:>10.3f}{per_image / in_process:>14.0f}"
            )


def score(client: RewardClient, images: list[np.ndarray]) -> list[Outcome]:
    count = len(images)
    return client.score(images, scorer="null", prompts=[""] * count, tasks=[None] * count)


def times(call: Callable[[], object], calls: int) -> list[float]:
    """Milliseconds of each call, after a tenth of them to warm up."""
    for _ in range(max(calls // 10, 5)):
        call()
    measured = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        measured.append((time.perf_counter() - started) * 1e3)
    return measured


def concurrent_ms_per_image(client: RewardClient, images: list[np.ndarray], workers: int, calls: int) -> float:
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda _: score(client, images), range(workers)))
        started = time.perf_counter()
        list(pool.map(lambda _: score(client, images), range(calls)))
        return (time.perf_counter() - started) * 1e3 / (calls * len(images))


def row(case: str, measured: list[float], size: int, base: list[float]) -> None:
    p50, p99 = statistics.median(measured), statistics.quantiles(measured, n=100)[98]
    ratio = p50 / statistics.median(base)
    print(f"{case:<34}{len(measured):>7}{p50:>9.3f}{p99:>9.3f}{p50 / size:>10.3f}{ratio:>14.0f}")


if __name__ == "__main__":
    sys.exit(main())
