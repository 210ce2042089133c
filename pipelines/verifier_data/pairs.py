"""A right picture and a wrong one of the same prompt, for preference tuning: lines of `pairs.jsonl`."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.verifier_data.held_out import share_of
from pipelines.verifier_data.paths import Candidate


@dataclass(frozen=True)
class Pairs:
    """The pairs of all prompts.

    Args:
        rows: {"prompt", "chosen", "rejected", "metadata"}, files relative to the root.
        all_yes: how many prompts have no wrong picture, and so no pair.
        all_no: how many have no right one.
    """

    rows: tuple[dict[str, Any], ...]
    all_yes: int
    all_no: int


def make_pairs(candidates: Sequence[Candidate], per_prompt: int, seed: int) -> Pairs:
    """Draw pairs at random, each at most once; the same in every run.

    Args:
        candidates: of one side of the split.
        per_prompt: how many; all there are where there are fewer.
        seed: another number draws others.
    """
    by_item: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_item[candidate.item].append(candidate)
    rows: list[dict[str, Any]] = []
    agreed = {"yes": 0, "no": 0}
    for item, found in by_item.items():
        right, wrong = ([one for one in found if one.label == label] for label in ("yes", "no"))
        if not right or not wrong:
            agreed[found[0].label] += 1
            continue
        drawn = sorted(
            ((chosen, rejected) for chosen in right for rejected in wrong),
            key=lambda pair: share_of("pair", seed, item, pair[0].number, pair[1].number),
        )
        rows += [_row(chosen, rejected) for chosen, rejected in drawn[:per_prompt]]
    return Pairs(tuple(rows), agreed["yes"], agreed["no"])


def _row(chosen: Candidate, rejected: Candidate) -> dict[str, Any]:
    files = {"chosen": chosen.final, "rejected": rejected.final}
    return {"prompt": chosen.prompt, **files, "metadata": dict(chosen.metadata)}
