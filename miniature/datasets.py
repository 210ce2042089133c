"""Training data on disk: captioned pictures for supervised fine-tuning, pairs of pictures for offline preferences, and
instructions with the pictures that they are to change.

    python -m miniature.datasets --sft 2000 --pairs 500 --edits 200 --output runs/data --seed 0

writes `sft.jsonl`, lines of {"image", "prompt"}, `pairs.jsonl`, lines of {"prompt", "chosen", "rejected"}, and
`edits.jsonl`, lines of {"prompt", "references"}; paths are relative to the files. Every line holds its GenEval task
too. The same arguments always write the same files, and the first lines of a larger set are those of a smaller one.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from miniature.editing import sample_edit
from miniature.glyphs import CLASSES, COLORS
from miniature.prompts import COUNT_SHARES, TAG_SHARES, GenEvalMetadata, counting_metadata, sample_captioned_scene
from miniature.world import Scene, sample_scene

FIRST_SEED = 4 * 10**9  # training of the weights draws from seeds below one billion, tests from two on
MOST_OFF = 2  # by how many objects a rejected picture is wrong


@dataclass(frozen=True)
class ScenePair:
    """A scene that fulfils a counting task, and one with another number of objects."""

    metadata: GenEvalMetadata
    chosen: Scene
    rejected: Scene


def sample_pair(rng: np.random.Generator) -> ScenePair:
    """Class, colour and background are the same on both sides, so that nothing but the count tells them apart."""
    name, color = str(rng.choice(CLASSES)), str(rng.choice(list(COLORS)))
    count = int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES)) + 1
    wrong = [other for other in range(1, len(COUNT_SHARES) + 1) if 0 < abs(other - count) <= MOST_OFF]
    chosen = sample_scene([(name, color)] * count, rng, tidy=True)
    rejected = sample_scene([(name, color)] * int(rng.choice(wrong)), rng, tidy=True)
    return ScenePair(counting_metadata(name, count), chosen, replace(rejected, background=chosen.background))


def write_captioned_pictures(output: Path, number: int, seed: int, tag: str | None = None) -> Path:
    """Write `number` pictures, of one GenEval tag or of all, to `output/sft`; return the JSONL file that lists them."""
    return _write(output / "sft.jsonl", _captioned_lines(output, number, seed, tag))


def write_pairs(output: Path, number: int, seed: int) -> Path:
    """Write `number` pairs of pictures to `output/pairs` and return the JSONL file that lists them."""
    return _write(output / "pairs.jsonl", _pair_lines(output, number, seed))


def write_edits(output: Path, number: int, seed: int) -> Path:
    """Write `number` pictures to `output/edits` and return the JSONL file of the instructions on them."""
    return _write(output / "edits.jsonl", _edit_lines(output, number, seed))


def _captioned_lines(output: Path, number: int, seed: int, tag: str | None) -> Iterator[dict[str, Any]]:
    for index in range(number):
        drawn = sample_captioned_scene(np.random.default_rng([FIRST_SEED, seed, 0, index]), tag)
        yield {"image": _save(drawn.scene, output, f"sft/{index:06d}.png"), **drawn.metadata}


def _pair_lines(output: Path, number: int, seed: int) -> Iterator[dict[str, Any]]:
    for index in range(number):
        pair = sample_pair(np.random.default_rng([FIRST_SEED, seed, 1, index]))
        chosen = _save(pair.chosen, output, f"pairs/{index:06d}_chosen.png")
        rejected = _save(pair.rejected, output, f"pairs/{index:06d}_rejected.png")
        yield {"chosen": chosen, "rejected": rejected, **pair.metadata}


def _edit_lines(output: Path, number: int, seed: int) -> Iterator[dict[str, Any]]:
    for index in range(number):
        edit = sample_edit(np.random.default_rng([FIRST_SEED, seed, 2, index]))
        source = _save(edit.source, output, f"edits/{index:06d}.png")
        yield {**edit.task, "prompt": edit.instruction, "references": [source]}


def _save(scene: Scene, output: Path, name: str) -> str:
    path = output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.render()).save(path)
    return name


def _write(path: Path, lines: Iterator[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sft", type=int, default=0, help="number of captioned pictures")
    parser.add_argument("--tag", choices=list(TAG_SHARES), help="only captions of this GenEval tag, with --sft")
    parser.add_argument("--pairs", type=int, default=0, help="number of pairs")
    parser.add_argument("--edits", type=int, default=0, help="number of instructions, with a picture each")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    captioned = partial(write_captioned_pictures, tag=args.tag)
    for number, write in ((args.sft, captioned), (args.pairs, write_pairs), (args.edits, write_edits)):
        if number:
            print(f"{number} lines in {write(args.output, number, args.seed)}")


if __name__ == "__main__":
    main()
