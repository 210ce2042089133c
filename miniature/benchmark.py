"""GenEval's benchmark on the miniature's vocabulary: the six tags in about the official proportions, as a prompt file.

    python -m miniature.benchmark > configs/pipelines/prompts/miniature_geneval.jsonl

The official counts are two to four, and so are these.
"""

import json

import numpy as np

from miniature.glyphs import CLASSES
from miniature.prompts import TAG_SHARES, GenEvalMetadata, counting_metadata, sample_metadata

NUMBERS = {"single_object": 6, "two_object": 15, "counting": 18, "colors": 18, "position": 20, "color_attr": 20}


def benchmark_prompts() -> list[GenEvalMetadata]:
    """As many prompts of each tag as `NUMBERS` says, all distinct, always the same."""
    rng = np.random.default_rng(0)
    chosen: dict[str, dict[str, GenEvalMetadata]] = {tag: {} for tag in TAG_SHARES}
    chosen["counting"] = {
        (task := counting_metadata(name, count))["prompt"]: task for name in CLASSES for count in (2, 3, 4)
    }
    while any(len(chosen[tag]) < number for tag, number in NUMBERS.items()):
        task = sample_metadata(rng)
        if len(chosen[task["tag"]]) < NUMBERS[task["tag"]]:
            chosen[task["tag"]][task["prompt"]] = task
    return [task for tag in NUMBERS for task in chosen[tag].values()]


def main() -> None:
    for task in benchmark_prompts():
        print(json.dumps(task))


if __name__ == "__main__":
    main()
