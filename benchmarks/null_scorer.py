"""What serving costs beside the model: a scorer that does nothing, called in process and over loopback.

    python benchmarks/null_scorer.py [--calls 2000] [--side 512]

The server runs in a second process. Rows: one raw image a call, and batches of 16, one call at a time (closed loop,
concurrency 1), then several at a time. "in process" calls the scorer with the same arrays; "bare gRPC" sends the same
bytes to a handler that ignores them, which is what no server in Python can undercut. It measures neither codecs nor a
network. Ratios travel from machine to machine better than times do.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import grpc
import numpy as np
from grpc import aio

from assay.background_loop import run_in_background
from assay.client import RewardClient
from assay.outcomes import Outcome, Scored
from assay.serving.lifecycle import ServeConfig, serve
from assay.serving.scorer import Sample, ScorerInfo


class NullScorer:
    """Scores everything 1, looking at nothing."""

    info = ScorerInfo("null", "0", (1.0, 1.0), True, ())

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        return [Scored(1.0) for _ in batch]


async def serve_bare() -> None:
    """Take any bytes, ignore them."""

    async def ignore(request: bytes, context: object) -> bytes:
        return b""

    server = aio.server(options=[("grpc.max_receive_message_length", -1)])
    handlers = {"Ignore": grpc.unary_unary_rpc_method_handler(ignore)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bare", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--serve", choices=["null", "bare"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve == "null":
        return serve([NullScorer()], ServeConfig(grpc_port=0, http_port=None))
    if arguments.serve == "bare":
        asyncio.run(serve_bare())
    with child("null") as target, child("bare") as bare:
        report(target, bare, arguments.side, arguments.calls)
    return 0


@contextlib.contextmanager
def child(kind: str) -> Iterator[str]:
    """A server in a process of its own; its address."""
    process = subprocess.Popen([sys.executable, __file__, "--serve", kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split("grpc=")[1].split()[0]
    finally:
        process.terminate()
        process.wait()


def report(target: str, bare: str, side: int, calls: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, raw {side} x {side} images\n")
    print(f"{'case':<32}{'calls':>7}{'p50 ms':>9}{'p99 ms':>9}{'ms/image':>10}{'x bare':>8}{'x in process':>14}")
    scorer = NullScorer()
    with RewardClient([target]) as client:
        for size in (1, 16):
            images = [image] * size
            few = max(calls // size, 50)
            samples = [Sample(str(index), (image,), "", None) for index in range(size)]
            base = times(lambda samples=samples: scorer.score(samples), few)
            floor = run_in_background(bare_times(bare, image.tobytes() * size, few)).result()
            row(f"in process, {size} a call", base, size, floor, base)
            row(f"bare gRPC, {size} a call", floor, size, floor, base)
            row(f"loopback, {size} a call", times(lambda images=images: score(client, images), few), size, floor, base)
        for workers in (4, 8):
            per_image = concurrent_ms_per_image(client, [image] * 16, workers, max(calls // 16, 50))
            ratios = per_image * 16 / statistics.median(floor), per_image * 16 / statistics.median(base)
            case = f"loopback, 16 a call, {workers} at once"
            print(f"{case:<32}{'':>25}{per_image:>10.3f}{ratios[0]:>8.1f}{ratios[1]:>14.0f}")


async def bare_times(target: str, data: bytes, calls: int) -> list[float]:
    """Milliseconds of each call that sends `data` and nothing more."""
    async with aio.insecure_channel(target, options=[("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary("/Bare/Ignore")
        measured = []
        for number in range(calls + max(calls // 10, 5)):
            started = time.perf_counter()
            await call(data)
            if number >= max(calls // 10, 5):
                measured.append((time.perf_counter() - started) * 1e3)
        return measured


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


def row(case: str, measured: list[float], size: int, floor: list[float], base: list[float]) -> None:
    p50, p99 = statistics.median(measured), statistics.quantiles(measured, n=100)[98]
    ratios = p50 / statistics.median(floor), p50 / statistics.median(base)
    print(f"{case:<32}{len(measured):>7}{p50:>9.3f}{p99:>9.3f}{p50 / size:>10.3f}{ratios[0]:>8.1f}{ratios[1]:>14.0f}")


if __name__ == "__main__":
    sys.exit(main())
