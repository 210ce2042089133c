"""What second copies of late calls are worth: three replicas, one of which stalls now and then or is slow all the time.

    python benchmarks/slow_replica.py [--seconds 20] [--rate 30]

Open loop, so that a stall is felt by all who come meanwhile. The replicas are processes of their own whose scorer
sleeps: 20 ms a batch; `stalls` sleeps a second in one batch of 25, `slow` sleeps 100 ms each time, `calm` is as the
others. Each case runs with hedging and without, twice, in turns. What counts is the ratio, and what it costs in copies.
"""

import argparse
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from assay.bench.load import Recorder, Sender
from assay.bench.payload import Payload, made_images
from assay.bench.windows import Window, merge, percentile
from assay.client import RewardClient
from assay.outcomes import Outcome, Scored
from assay.serving.lifecycle import ServeConfig, serve
from assay.serving.scorer import Sample, ScorerInfo

USUAL_S, SLOW_S, STALL_S, STALLS = 0.02, 0.1, 1.0, 0.04
CASES = ("calm", "stalls", "slow")


class SleepingScorer:
    """Scores everything 1 after a sleep that depends on its kind."""

    info = ScorerInfo("sleeping", "0", (1.0, 1.0), True, ())

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._random = random.Random(0)

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        stalls = self._kind == "stalls" and self._random.random() < STALLS
        time.sleep(STALL_S if stalls else SLOW_S if self._kind == "slow" else USUAL_S)
        return [Scored(1.0) for _ in batch]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--rate", type=float, default=30.0, help="requests a second")
    parser.add_argument("--serve", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve([SleepingScorer(arguments.serve)], ServeConfig(grpc_port=0, http_port=None))
    print(f"{'third replica':<14}{'copies':<10}{'requests':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'copied':>9}")
    for case in CASES:
        with child("calm") as one, child("calm") as two, child(case) as three:
            compare(case, [one, two, three], arguments.rate, arguments.seconds)
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


def compare(case: str, targets: list[str], rate: float, seconds: float) -> None:
    measured: dict[float, list[tuple[Window, float]]] = {0.0: [], 0.05: []}
    for _ in range(2):
        for budget, results in measured.items():
            results.append(measure(targets, budget, rate, seconds))
    late: list[float] = []
    for budget, results in measured.items():
        seen = merge([window for window, _ in results])
        copied = float(np.mean([share for _, share in results]))
        p50, p95, p99 = (percentile(seen.latencies_s, share) * 1e3 for share in (0.5, 0.95, 0.99))
        late.append(p99)
        name = "none" if budget == 0 else f"<= {budget:.0%}"
        print(f"{case:<14}{name:<10}{len(seen.latencies_s):>9}{p50:>9.1f}{p95:>9.1f}{p99:>9.1f}{copied:>9.2%}")
        assert not seen.failures
    print(f"{'':<14}p99 without copies / with: {late[0] / late[1]:.2f}")


def measure(targets: list[str], budget: float, rate: float, seconds: float) -> tuple[Window, float]:
    """(what was seen, copies per call)."""
    recorder = Recorder()
    with RewardClient(targets, hedge_budget=budget) as client:
        sender = Sender(client, "sleeping", Payload(made_images("noise", 64, 64, 1), [("", None)]), 1, recorder)
        with sender.open_loop(rate):
            time.sleep(seconds)
            seen = recorder.cut()
        counted = client.statistics
    return seen, counted.hedged / counted.calls


if __name__ == "__main__":
    sys.exit(main())
