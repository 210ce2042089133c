"""Minutes of training until strict counting accuracy has risen by 0.10 and by 0.15, algorithm by algorithm.

    python benchmarks/learning_efficiency.py --output runs/learning_efficiency

Every run starts from the miniature SD3 as it is committed and learns from the same GenEval service, in a process of
its own, over gRPC, on one core. Runs take turns, seed by seed, so that a busy machine is busy for all. Minutes are
those of sampling, waiting for rewards and updating; loading and held-out evaluation are not counted. An algorithm is
there when a held-out evaluation (512 pairs of prompt and seed; the deterministic sampler with the guidance and the
number of steps that it trains with) is so far above its own start. A run ends at the second gain or after its minutes.

What is done is kept: the benchmark goes on where it was interrupted, and, given more minutes, with the runs that had
not arrived.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
GAINS = (0.10, 0.15)
#: Of the sampler, in training and in evaluation.
STEPS = 8

#: name -> (configuration in configs/train, epochs between evaluations). The first is what the others are compared with.
CONTESTANTS = {
    "Flow-GRPO as the reference has it": ("miniature_reference", 2),
    "Fast": ("miniature_fast", 4),
    "Fast, CPS": ("miniature_cps", 4),
    "Guard": ("miniature_guard", 4),
    "DiffusionNFT": ("miniature_nft", 4),
    "online DPO": ("miniature_dpo", 4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/learning_efficiency"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--most-minutes", type=float, default=40, help="of training, per run")
    parser.add_argument("--images", type=int, default=512, help="of an evaluation")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each takes a core, the service another")
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--report", action="store_true", help="train nothing")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if not args.report:
        with serving(args.output) as target, ThreadPoolExecutor(args.jobs) as pool:
            turns = [(name, seed) for seed in range(args.seeds) for name in args.only]
            for finished in [pool.submit(train, name, seed, target, args) for name, seed in turns]:
                finished.result()
    report(args.output, args.seeds)


class serving:
    """Inside, a GenEval service of its own runs; gives its address."""

    def __init__(self, folder: Path) -> None:
        self._log, self._ready = folder / "service.log", folder / "ready.json"

    def __enter__(self) -> str:
        self._ready.unlink(missing_ok=True)
        flags = ["serve.grpc_port=0", "serve.http_port=null", f"serve.ready_file={self._ready.absolute()}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "assay.cli", "serve", "geneval", *flags],
            cwd=ROOT,
            stdout=self._log.open("w"),
            stderr=subprocess.STDOUT,
            env=environment(),
        )
        while not self._ready.exists():
            if self._process.poll() is not None:
                raise SystemExit(f"the service did not start: {self._log}")
            time.sleep(0.1)
        return str(json.loads(self._ready.read_text())["grpc"])

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def train(name: str, seed: int, target: str, args: argparse.Namespace) -> None:
    """One run, to the target or to the end of its minutes."""
    config, every = CONTESTANTS[name]
    folder = run_folder(args.output, name, seed)
    if is_over(folder, args.most_minutes):
        return
    settings = {
        "run.output": folder,
        "run.seed": seed,
        "run.epochs": 100_000,
        "run.threads": 1,
        "run.save_every_epochs": every,
        "run.trackers": "[]",
        "rewards.0.targets": f"[{target}]",
        "evaluation.num_images": args.images,
        "sampling.num_steps": STEPS,
        "evaluation.num_steps": STEPS,
        "evaluation.every_epochs": every,
        "evaluation.keep_best": "false",
    }
    command = [sys.executable, "-m", "assay.cli", "train", f"configs/train/{config}.yaml"]
    command += [f"{field}={value}" for field, value in settings.items()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment())
        while process.poll() is None and not is_over(folder, args.most_minutes):
            time.sleep(0.5)
        if process.poll() not in (None, 0):
            raise SystemExit(f"{name}, seed {seed}, failed: {log.name}")
        process.kill()
        process.wait()
    print(f"{name}, seed {seed}: {outcome(folder)}", flush=True)


def is_over(folder: Path, most_minutes: float) -> bool:
    curve = evaluations(folder)
    return reached(curve, GAINS[-1]) is not None or (bool(curve) and curve[-1]["minutes"] >= most_minutes)


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("evaluations/epoch-*/summary.json"))]


def reached(curve: list[dict[str, Any]], gain: float) -> float | None:
    """Minutes until the first evaluation with that gain; None if there is none."""
    return next((point["minutes"] for point in curve if point["accuracy"] >= curve[0]["accuracy"] + gain), None)


def outcome(folder: Path) -> str:
    curve = evaluations(folder)
    times = [reached(curve, gain) for gain in GAINS]
    spoken = ", ".join(f"+{gain:.2f} {_minutes(time)}" for gain, time in zip(GAINS, times, strict=True))
    return f"{spoken} of {curve[-1]['minutes']:.1f} minutes; best {best_gain(curve):+.3f}"


def best_gain(curve: list[dict[str, Any]]) -> float:
    return float(max(point["accuracy"] for point in curve) - curve[0]["accuracy"])


def _minutes(time: float | None) -> str:
    return "-" if time is None else f"{time:.1f}"


def run_folder(output: Path, name: str, seed: int) -> Path:
    return output / CONTESTANTS[name][0] / f"seed{seed}"


def report(output: Path, seeds: int) -> None:
    """Print the table of all there is, and draw the curves."""
    found = {name: [evaluations(run_folder(output, name, seed)) for seed in range(seeds)] for name in CONTESTANTS}
    runs = {name: [curve for curve in curves if curve] for name, curves in found.items() if any(curves)}
    columns = ["", "start"]
    for gain in GAINS:
        columns += [f"minutes to +{gain:.2f} (each seed)", "mean", "times faster"]
    rows = [(*columns, "best gain (mean)", "epochs")]
    for name, curves in runs.items():
        row = [name, f"{curves[0][0]['accuracy']:.3f}"]
        for gain in GAINS:
            row += [", ".join(_minutes(reached(curve, gain)) for curve in curves), *compared(runs, name, gain)]
        row += [f"{np.mean([best_gain(curve) for curve in curves]):+.3f}"]
        rows.append((*row, ", ".join(str(curve[-1]["epoch"]) for curve in curves)))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    table = "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
    (output / "table.md").write_text(table + "\n")
    print(table)
    draw(runs, output / "curves.png")


def compared(runs: dict[str, list[list[dict[str, Any]]]], name: str, gain: float) -> tuple[str, str]:
    """Mean minutes to a gain, and how many times less than the first contestant's.

    A run that did not arrive counts with the minutes that it had, for its true time is longer: a mean with such a run
    in it is a lower bound, and so is a ratio to one. A contestant that did not always arrive has no ratio.
    """
    mean, arrived = mean_minutes(runs[name], gain)
    first, first_arrived = mean_minutes(runs.get(next(iter(CONTESTANTS)), []), gain)
    ratio = f"{'' if first_arrived else '> '}{first / mean:.1f}" if arrived and first else "-"
    return f"{'' if arrived else '> '}{mean:.1f}", ratio


def mean_minutes(curves: list[list[dict[str, Any]]], gain: float) -> tuple[float, bool]:
    """Mean over the runs, and whether all arrived; 0 where there is no run."""
    times = [reached(curve, gain) for curve in curves]
    spent = [curve[-1]["minutes"] if time is None else time for curve, time in zip(curves, times, strict=True)]
    return float(np.mean(spent)) if spent else 0.0, None not in times


def draw(runs: dict[str, list[list[dict[str, Any]]]], file: Path) -> None:
    """Gain over minutes, a line a run."""
    figure = Figure(figsize=(9, 5))
    axis = figure.subplots()
    for index, (name, curves) in enumerate(runs.items()):
        for curve in curves:
            gains = [point["accuracy"] - curve[0]["accuracy"] for point in curve]
            minutes = [point["minutes"] for point in curve]
            axis.plot(minutes, gains, color=f"C{index}", label=name if curve is curves[0] else None)
    for gain in GAINS:
        axis.axhline(gain, color="grey", linestyle=":")
    axis.set_xlabel("minutes of training")
    axis.set_ylabel("gain in held-out strict counting accuracy")
    axis.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
