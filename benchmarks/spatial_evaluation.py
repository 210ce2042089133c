"""Questions answered per second by `assay spatial eval`, in batches and one sample at a time, in one run.

Both go to the same spatial service, a second process with a model of the miniature's class and random weights, with
the same questions about the miniature's scenes. One at a time is a straight loop: one question a call, the next when
the answer is there. `assay spatial eval` has several calls of --batch questions under way, keeps its ledger, and writes
numbers and page. What the model says means nothing; it writes as many tokens in either way.

    python benchmarks/spatial_evaluation.py [--samples 96] [--threads 2] [--batch 16] [--rounds 3]
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from assay.client import RewardClient
from assay.outcomes import Scored
from assay.questions import QUESTION_FILES
from assay.tasks import PointingTask
from miniature.vlm import build_vlm, save_vlm
from miniature.x3 import write_x3
from pipelines.spatial_tasks.building.command import spatial_build
from pipelines.spatial_tasks.evaluation.command import spatial_eval
from pipelines.spatial_tasks.evaluation.rows import read_rows

SAMPLES_A_SCENE = 12  # at least: four objects, seen from five places, are some sixteen pairs


def write_questions(folder: Path, samples: int) -> Path:
    """A file of that many questions of two pictures each."""
    write_x3(folder / "x3", scenes=samples // SAMPLES_A_SCENE + 2, seed=0)
    flags = [f"data_root={folder / 'x3'}", f"out_dir={folder / 'tasks'}", "emit_concat=false"]
    if spatial_build(None, flags) != 0:
        raise SystemExit("assay spatial build failed")
    rows = json.loads((folder / "tasks/t1_train_multi.json").read_text())
    if len(rows) < samples:
        raise SystemExit(f"--samples {samples}: there are {len(rows)} questions")
    path = folder / "questions.json"
    path.write_text(json.dumps(rows[:samples]))
    return path


def write_service(folder: Path, tokens: int) -> Path:
    """A model with random weights, and the service's configuration with it."""
    texts = [path.read_text() for path in sorted((QUESTION_FILES / "spatial").glob("*.txt"))]
    model = save_vlm(folder / "vlm", *build_vlm(texts))
    scorer = {
        "scorers": ["correspondence", "difference"],
        "pointing": {"family": "roborefer", "max_new_tokens": tokens},
        "backend": {"name": "transformers", "model": str(model), "device": "cpu"},
    }
    path = folder / "service.yaml"
    path.write_text(yaml.safe_dump({"scorer": scorer}))
    return path


@contextlib.contextmanager
def service(config: Path, folder: Path, threads: int) -> Iterator[str]:
    """A spatial service in a second process; yields its address."""
    ready = folder / "ready.json"
    flags = ["serve.grpc_port=0", "serve.http_port=null", f"serve.ready_file={ready}"]
    command = [sys.executable, "-m", "assay.cli", "serve", "spatial", "--config", str(config), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not ready.exists():
            if process.poll() is not None:
                raise SystemExit("the service did not start")
            time.sleep(0.1)
        yield str(json.loads(ready.read_text())["grpc"])
    finally:
        process.terminate()
        process.wait()


def one_at_a_time(target: str, questions: Path) -> float:
    """Seconds for all questions, the files' reading included."""
    began = time.perf_counter()
    with RewardClient([target]) as client:
        for question in read_rows(questions, Path("/"), compat=False).questions:
            assert question.mask is not None
            pictures = tuple(path.read_bytes() for path in (*question.images, question.mask))
            task = PointingTask(question.text)
            (outcome,) = client.score([pictures], scorer=question.scorer, prompts=[""], tasks=[task])
            if not isinstance(outcome, Scored):
                raise SystemExit(f"{question.id}: {outcome}")
    return time.perf_counter() - began


def with_assay(target: str, questions: Path, output: Path, batch: int) -> float:
    """Seconds for all questions, numbers and page included."""
    began = time.perf_counter()
    flags = [f"data_json={questions}", f"output_json={output}", f"targets=[{target!r}]", f"batch_size={batch}"]
    if spatial_eval(None, flags) != 0:
        raise SystemExit("assay spatial eval failed")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=96, help="questions")
    parser.add_argument("--threads", type=int, default=2, help="of the service's model")
    parser.add_argument("--batch", type=int, default=16, help="questions of a call")
    parser.add_argument("--tokens", type=int, default=32, help="that the model writes at most")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"singly": [], "assay": []}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        questions = write_questions(root, args.samples)
        with service(write_service(root, args.tokens), root, args.threads) as target:
            for turn in range(args.rounds):
                seconds["singly"].append(one_at_a_time(target, questions))
                seconds["assay"].append(with_assay(target, questions, root / f"out-{turn}.json", args.batch))
    singly, assay = (float(np.median(times)) for times in seconds.values())
    print(f"\n{args.samples} questions, {args.threads} threads, median of {args.rounds} rounds")
    print(f"one at a time        {args.samples / singly:8.1f} samples/s")
    print(f"assay spatial eval   {args.samples / assay:8.1f} samples/s, in batches of {args.batch}, numbers and page")
    print(f"ratio                {singly / assay:8.2f}")


if __name__ == "__main__":
    main()
