"""Images per second of `assay generate`, beside a plain loop over the same pipeline, in one run.

The plain loop is what one writes by hand: for each instruction, open the references, call the pipeline, save a PNG.
`assay generate` adds a ledger, leases and checks, and renders the instructions of a sample in one pass.

    python benchmarks/image_generation.py [--checkpoint FOLDER] [--samples 60] [--instructions 3] [--steps 4]
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

from generators.flux2_klein import load_pipeline, text_layers
from pipelines.generate.command import generate

WORDS = ("add a red apple", "remove the blue cup", "paint the kite green", "move the pizza to the top left")


def write_data(root: Path, samples: int, instructions: int) -> list[dict]:
    """A planner's file and references of noise, 64 x 64 pixels."""
    (root / "predicted_instructions/planner").mkdir(parents=True)
    records = []
    for number in range(samples):
        path = root / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        texts = [WORDS[(number + k) % len(WORDS)] for k in range(instructions)]
        records.append({"id": number, "dataset": "noise", "image_paths": [str(path)], "instructions": texts})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (root / "predicted_instructions/planner/results.jsonl").write_text(lines)
    return records


def plain_loop(pipeline: Flux2KleinPipeline, records: list[dict], output: Path, steps: int) -> None:
    layers = text_layers(pipeline.text_encoder.config.num_hidden_layers)
    length = min(512, pipeline.tokenizer.model_max_length)
    for record in records:
        folder = output / str(record["id"])
        folder.mkdir(parents=True)
        references = [Image.open(path).convert("RGB") for path in record["image_paths"]]
        for k, text in enumerate(record["instructions"]):
            image = pipeline(
                image=references,
                prompt=text,
                num_inference_steps=steps,
                guidance_scale=1.0,
                max_sequence_length=length,
                text_encoder_out_layers=layers,
                generator=torch.Generator().manual_seed(k),
            ).images[0]
            image.save(folder / f"img_{k}.png")


def with_assay(checkpoint: Path, root: Path, output: Path, steps: int) -> None:
    settings = {
        "planning_model": "planner",
        "predicted_instructions_root": f"{root}/predicted_instructions",
        "flux_ckpt": checkpoint,
        "output_root": output,
        "num_inference_steps": steps,
        "num_gpus": 1 if torch.cuda.is_available() else 0,
        "dtype": "float32",
    }
    if generate(None, [f"{name}={value}" for name, value in settings.items()]) != 0:
        raise SystemExit("assay generate failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("miniature/weights/flux2_klein"))
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--instructions", type=int, default=3, help="of each sample")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    pipeline = load_pipeline(args.checkpoint, device, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    images = args.samples * args.instructions
    seconds: dict[str, list[float]] = {"plain loop": [], "assay generate": [], "nothing left to do": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        records = write_data(root, args.samples, args.instructions)
        plain_loop(pipeline, records[:3], root / "warm-up", args.steps)
        for turn in range(args.rounds):
            output = root / f"assay-{turn}"
            for name, run in (
                ("plain loop", lambda turn=turn: plain_loop(pipeline, records, root / f"plain-{turn}", args.steps)),
                ("assay generate", lambda output=output: with_assay(args.checkpoint, root, output, args.steps)),
                ("nothing left to do", lambda output=output: with_assay(args.checkpoint, root, output, args.steps)),
            ):
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
    plain, assay, nothing = (float(np.median(times)) for times in seconds.values())
    print(f"\n{images} images of {args.samples} samples, {args.steps} steps, {device}, median of {args.rounds} rounds")
    print(f"plain loop       {images / plain:8.2f} images/s")
    print(
        f"assay generate   {images / assay:8.2f} images/s, loading the model included ({nothing:.2f} s without images)"
    )
    print(f"ratio            {plain / assay:8.2f}")


if __name__ == "__main__":
    main()
