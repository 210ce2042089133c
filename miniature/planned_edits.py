"""Write edits of the small world to disk as a planning model's predictions, and what should come of each.

Under the root: the source pictures, `datasets/evaluation/miniature/images/{id}_0.png`; the records that
`assay generate` reads, `predicted_instructions/{planning_model}/results.jsonl`; and `expected.jsonl`, one line for each
picture to be generated (`id` and `k` name it: `{id}/img_{k}.png`) with the GenEval task that judges it, and the box
where the edited object should be, null where any place is right. Every instruction of a record starts from the same
source. Where a move brings about a relation between two objects, the record tells it, for `assay generate --score`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from miniature.editing import Edit, sample_edit, sample_source

# A planner that sees nothing to do says nothing; the share of records with 0, 1, 2, 3 instructions.
INSTRUCTION_SHARES = (0.08, 0.4, 0.3, 0.22)
FIRST_SEED = 3 * 10**9  # training draws from seeds below one billion, tests from two on
IMAGES = "evaluation/miniature/images"


def write_planned_edits(root: Path, samples: int, seed: int, planning_model: str) -> None:
    """Write `samples` records; the same arguments always write the same files."""
    rng = np.random.default_rng(FIRST_SEED + seed)
    images, plans = root / "datasets" / IMAGES, root / "predicted_instructions" / planning_model
    for folder in (images, plans):
        folder.mkdir(parents=True, exist_ok=True)
    with (plans / "results.jsonl").open("w") as results, (root / "expected.jsonl").open("w") as expected:
        for number in range(samples):
            source = sample_source(rng)
            count = rng.choice(len(INSTRUCTION_SHARES), p=INSTRUCTION_SHARES)
            edits = [sample_edit(rng, source) for _ in range(count)]
            Image.fromarray(source.render()).save(images / f"{number}_0.png")
            results.write(json.dumps(_record(number, edits)) + "\n")
            expected.writelines(json.dumps(_expectation(number, k, edit)) + "\n" for k, edit in enumerate(edits))


def _record(number: int, edits: list[Edit]) -> dict[str, Any]:
    names = ("subject", "relation", "reference")
    relations = [edit.relation and dict(zip(names, edit.relation, strict=True)) for edit in edits]
    return {
        "id": number,
        "dataset": "miniature",
        "question": "What should be done to this picture?",
        "image_paths": [f"dataset/{IMAGES}/{number}_0.png"],  # planners write `dataset/` for `datasets/`
        "instructions": [edit.instruction for edit in edits],
        **({"relation": relations} if any(relations) else {}),
    }


def _expectation(number: int, k: int, edit: Edit) -> dict[str, Any]:
    box = edit.edited.box if edit.edited else None
    return {"id": number, "k": k, "operation": edit.operation, "task": edit.task, "box": box}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--planning-model", default="Qwen3-VL-4B-Instruct")
    args = parser.parse_args()
    write_planned_edits(args.root, args.samples, args.seed, args.planning_model)
    print(f"{args.samples} records in {args.root / 'predicted_instructions' / args.planning_model / 'results.jsonl'}")
