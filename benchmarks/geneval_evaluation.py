"""Images scored per second by `assay evaluate geneval`, beside a straight loop over the same models, in one run.

The loop goes the official evaluator's way: one image at a time through the detector, and one CLIP call for each object
whose colour is asked. `assay evaluate` sends the same files to a GenEval service in a second process, and writes its
report. Pictures are exact scenes of the miniature's world; with another --config the same files go to other models.

    python benchmarks/geneval_evaluation.py [--prompts 100] [--images 4] [--config configs/services/geneval.yaml]
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from assay.tasks import GenEvalTask
from miniature.prompts import sample_metadata, scene_for
from pipelines.evaluate.command import evaluate_geneval
from services.geneval.colors import ClipColors, ColorQuestion
from services.geneval.detectors.transformers_detector import TransformersDetector


def write_images(root: Path, prompts: int, images: int) -> None:
    """`images` exact pictures of each of `prompts` tasks, in GenEval's layout."""
    rng = np.random.default_rng(0)
    for index in range(prompts):
        task = sample_metadata(rng)
        (root / f"{index:05d}/samples").mkdir(parents=True)
        (root / f"{index:05d}/metadata.jsonl").write_text(json.dumps(task))
        for k in range(images):
            Image.fromarray(scene_for(task, rng).render()).save(root / f"{index:05d}/samples/{k:05d}.png")


def straight_loop(config: dict, root: Path) -> float:
    """Seconds for all images, the loading of the models left out."""
    detector = TransformersDetector(config["detector"]["model"], min_confidence=config["rules"]["threshold"])
    colors = ClipColors(config["colors"]["model"])
    began = time.perf_counter()
    for folder in sorted(root.iterdir()):
        task = GenEvalTask.from_metadata(json.loads((folder / "metadata.jsonl").read_text()))
        colored = {clause.class_name for clause in task.include if clause.color}
        for path in sorted((folder / "samples").iterdir()):
            image = np.asarray(Image.open(path).convert("RGB"))
            (objects,) = detector.detect([image])
            for found in objects:
                if found.label in colored:
                    colors.name_colors([ColorQuestion(image, found)])
    return time.perf_counter() - began


@contextlib.contextmanager
def service(config: Path, folder: Path) -> Iterator[str]:
    """A GenEval service in a second process; yields its address."""
    ready = folder / "ready.json"
    flags = ["serve.grpc_port=0", "serve.http_port=null", f"serve.ready_file={ready}"]
    command = [sys.executable, "-m", "assay.cli", "serve", "geneval", "--config", str(config), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not ready.exists():
            if process.poll() is not None:
                raise SystemExit("the service did not start")
            time.sleep(0.1)
        yield str(json.loads(ready.read_text())["grpc"])
    finally:
        process.terminate()
        process.wait()


def with_assay(target: str, root: Path, output: Path) -> float:
    """Seconds for all images, reports included."""
    began = time.perf_counter()
    if evaluate_geneval(None, [f"images={root}", f"output={output}", f"targets=[{target!r}]"]) != 0:
        raise SystemExit("assay evaluate failed")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--config", type=Path, default=Path("configs/services/geneval.yaml"))
    args = parser.parse_args()
    number = args.prompts * args.images
    seconds: dict[str, list[float]] = {"loop": [], "assay": []}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_images(root / "images", args.prompts, args.images)
        config = yaml.safe_load(args.config.read_text())["scorer"]
        with service(args.config, root) as target:
            for turn in range(args.rounds):
                seconds["loop"].append(straight_loop(config, root / "images"))
                seconds["assay"].append(with_assay(target, root / "images", root / f"out-{turn}"))
    loop, assay = (float(np.median(times)) for times in seconds.values())
    print(f"\n{number} images of {args.prompts} prompts, median of {args.rounds} rounds")
    print(f"straight loop     {number / loop:8.1f} images/s")
    print(f"assay evaluate    {number / assay:8.1f} images/s, scoring, statistics and report")
    print(f"ratio             {loop / assay:8.2f}")


if __name__ == "__main__":
    main()
