"""Images per second of training, and its share of waiting for rewards, beside a straight loop, in one run.

    python benchmarks/training_throughput.py [--speeds 1 0.5 2] [--rounds 3] [--epochs 2] [field=value ...]

The straight loop samples all, then scores all, then updates. It is the trainer itself with one thing changed: rewards
are asked for when they are needed, not when an image is there. Beside it: the default, an optimizer step that waits for
its own rewards alone (`advantages.std: group`), and `sampling.one_step_off_policy`.

Rewards come over gRPC from a service in a second process. It scores one batch at a time and takes a fixed time an
image, asleep: it stands for another machine, and must not compete for the cores of this one. Before each run sampling
is measured, and the service's time set by it: --speeds are images per second of the service over those of sampling. It
is set anew from the latest micro-batches, for other work on the machine may slow sampling down in mid-run; the last
column says what the speed came to. The ways train in turn, from the same start with the same seeds. Seconds are those
of all epochs of a run, from the first sample to the last update; loading and checkpoints are not counted.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator

from assay.config import load_config
from assay.outcomes import Outcome, Scored
from assay.rewards import RewardBatch, RewardSet
from assay.serving.lifecycle import ServeConfig, serve
from assay.serving.scorer import Sample, ScorerInfo
from trainer.config import TrainConfig
from trainer.loop import Trainer

CONFIG = Path("configs/train/miniature_counting.yaml")
#: What is other than in the configuration: half of the sampler's steps, for brevity.
SETTINGS = ("sampling.num_steps=4", "evaluation=null", "run.trackers=[]", "run.threads=null")
#: name -> what it changes in the configuration.
WAYS: dict[str, tuple[str, ...]] = {
    "straight loop": (),
    "assay, advantages.std: global": (),
    "assay, advantages.std: group": ("advantages.std=group",),
    "assay, one step off-policy": ("sampling.one_step_off_policy=true",),
}
STRAIGHT = "straight loop"
COLUMNS = ("sampling", "waiting", "updating", "all", "images/s", "waiting/all", "ratio", "speed")

Seconds = dict[str, float]


class SleepingScorer:
    """Brightness, after a time for each image that is read from a file."""

    info = ScorerInfo("brightness", "0", (0.0, 1.0), True, ("GenEvalTask",))

    def __init__(self, pace: Path) -> None:
        self._pace = pace

    def score(self, batch: Sequence[Sample]) -> list[Outcome]:
        time.sleep(len(batch) * float(self._pace.read_text()))
        return [Scored(float(sample.images[0].mean() / 255)) for sample in batch]


class AskedAtOnce:
    """A set of rewards, whose service is kept `speed` times as fast as the latest micro-batches were sampled."""

    def __init__(self, rewards: RewardSet, pace: Path, speed: float) -> None:
        self._rewards, self._pace, self._speed = rewards, pace, speed
        self._last_s, self._latest_s = time.perf_counter(), deque[float](maxlen=7)
        self.service_s = 0.0

    def submit(self, images: Sequence[Any], *others: Any) -> Any:
        now_s = time.perf_counter()
        self._latest_s.append((now_s - self._last_s) / len(images))
        self._last_s = now_s
        if len(self._latest_s) > 2:  # the first of an epoch comes after an update: the median leaves it out
            hand_over(self._pace, median(self._latest_s) / self._speed)
        self.service_s += float(self._pace.read_text()) * len(images)
        return self._ask(images, *others)

    def _ask(self, *call: Any) -> Any:
        return self._rewards.submit(*call)


class AskedLate(AskedAtOnce):
    """They are asked for, all in one go, when the first of them is waited for."""

    def __init__(self, rewards: RewardSet, pace: Path, speed: float) -> None:
        super().__init__(rewards, pace, speed)
        self._unasked: list[tuple[tuple[Any, ...], LateRewards]] = []

    def _ask(self, *call: Any) -> "LateRewards":
        late = LateRewards(self)
        self._unasked.append((call, late))
        return late

    def ask(self) -> None:
        for call, late in self._unasked:
            late.asked = self._rewards.submit(*call)
        self._unasked = []


def hand_over(pace: Path, seconds: float) -> None:
    """By rename, so that the service never reads half of it."""
    written = pace.with_suffix(".new")
    written.write_text(str(seconds))
    written.replace(pace)


class LateRewards:
    """A micro-batch's rewards."""

    asked: "Future[RewardBatch] | None" = None

    def __init__(self, owner: AskedLate) -> None:
        self._owner = owner

    def result(self) -> RewardBatch:
        if self.asked is None:
            self._owner.ask()
        assert self.asked is not None
        return self.asked.result()


@contextlib.contextmanager
def service(pace: Path) -> Iterator[str]:
    """A reward service in a process of its own; its address."""
    hand_over(pace, 0)
    command = [sys.executable, __file__, "--serve", str(pace)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split("grpc=")[1].split()[0]
    finally:
        process.terminate()
        process.wait()


def train(way: str, settings: Sequence[str], target: str, pace: Path, speed: float) -> Seconds:
    """Seconds of a run's epochs, in all and by what it did, and what its service took."""
    with tempfile.TemporaryDirectory() as output, contextlib.redirect_stdout(sys.stderr):
        rewards = f"rewards=[{{name: brightness, scorer: brightness, targets: ['{target}']}}]"
        run = (f"run.output={output}/run", "run.save_every_epochs=1000")
        config = load_config(TrainConfig, CONFIG, [*SETTINGS, *settings, *WAYS[way], rewards, *run])
        with RewardSet(config.rewards) as reward_set:
            reward_set.wait_until_ready(60)
            asked: Any = (AskedLate if way == STRAIGHT else AskedAtOnce)(reward_set, pace, speed)
            Trainer(config, Accelerator(cpu=not torch.cuda.is_available()), asked, [reward_set]).run()
        rows = [json.loads(line) for line in Path(output, "run/metrics.jsonl").read_text().splitlines()]
    names = {"sampling": "sample_s", "waiting": "reward_wait_s", "updating": "update_s"}
    parts = {part: sum(row[name] for row in rows) for part, name in names.items()}
    return {**parts, "all": rows[-1]["minutes"] * 60, "service": asked.service_s}


class Measurement:
    """Runs of all ways.

    Args:
        settings: `field=value`, for all runs.
        epochs: of a run.
        target: the service's address.
        pace: the file that sets its time.
    """

    def __init__(self, settings: Sequence[str], epochs: int, target: str, pace: Path) -> None:
        config = load_config(TrainConfig, CONFIG, [*SETTINGS, *settings])
        assert config.sampling is not None
        self._settings, self._epochs, self._target, self._pace = settings, epochs, target, pace
        self._group_size = config.sampling.group_size
        self._steps = config.algorithm.optimizer_steps_per_epoch
        self._images = epochs * config.sampling.groups_per_epoch * self._group_size

    def __str__(self) -> str:
        return f"runs of {self._images} images, {self._epochs} epochs, {self._epochs * self._steps} optimizer steps"

    def run(self, way: str, speed: float) -> Seconds:
        hand_over(self._pace, 0)
        few = [*self._settings, "run.epochs=1", f"sampling.groups_per_epoch={self._steps}"]
        measured_s = train(STRAIGHT, few, self._target, self._pace, float("inf"))["sampling"]
        hand_over(self._pace, measured_s / (self._steps * self._group_size) / speed)
        return train(way, [*self._settings, f"run.epochs={self._epochs}"], self._target, self._pace, speed)

    def report(self, speed: float, seconds: dict[str, list[Seconds]]) -> None:
        """Medians over runs."""
        print(f"\nthe service is {speed:g} times as fast as sampling")
        print(f"{'seconds of a run':<30}" + "".join(f"{column:>12}" for column in COLUMNS))
        straight = median(run["all"] for run in seconds[STRAIGHT])
        for way, runs in seconds.items():
            middle = {part: median(run[part] for run in runs) for part in COLUMNS[:4]}
            share = median(run["waiting"] / run["all"] for run in runs)
            actual = median(run["sampling"] / run["service"] for run in runs)
            print(f"{way:<30}" + "".join(f"{value:>12.2f}" for value in middle.values()), end="")
            rate, ratio = self._images / middle["all"], straight / middle["all"]
            print(f"{rate:>12.1f}{share:>12.2%}{ratio:>12.2f}{actual:>12.2f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speeds", type=float, nargs="+", default=[1.0, 0.5, 2.0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="of a run")
    parser.add_argument("--threads", type=int, default=1, help="torch CPU threads")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args, settings = parser.parse_known_args()
    if args.serve is not None:
        return serve([SleepingScorer(args.serve)], ServeConfig(grpc_port=0, http_port=None, max_batch_items=16))
    torch.set_num_threads(args.threads)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, torch threads: {args.threads}")
    with tempfile.TemporaryDirectory() as folder, service(Path(folder, "pace")) as target:
        settings = [f"model.embeddings_cache={folder}", *settings]
        measurement = Measurement(settings, args.epochs, target, Path(folder, "pace"))
        print(measurement, flush=True)
        for speed in args.speeds:
            seconds: dict[str, list[Seconds]] = {way: [] for way in WAYS}
            for way in list(WAYS) * args.rounds:
                seconds[way].append(measurement.run(way, speed))
            measurement.report(speed, seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
