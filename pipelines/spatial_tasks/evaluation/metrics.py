"""Numbers over judged answers, each over a denominator that does not depend on what was answered, or with its own n.

Questions without a score (the service failed) are in none of them. The reference's own denominators are in
`reference.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.spatial_tasks.evaluation.judgement import Judgement

#: Keys as the protocol names them -> largest distance that is a success.
SUCCESS = {"success_002": 0.02, "success_005": 0.05, "success_010": 0.10}


def named_metrics(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """The protocol's keys. An answer that cannot be read, and a refusal of what is visible, are misses.

    Distances are in the query picture's frame, over answers that are points.
    """
    visible = [one for one in judgements if one.visible]
    missing = [one for one in judgements if not one.visible]
    distances = [one.l2 for one in visible if one.l2 is not None]
    hits = sum(one.hit for one in visible)
    return {
        "total": len(judgements),
        "gt_not_visible": len(missing),
        "visible_gt": len(visible),
        "not_visible_accuracy": share(sum(one.says_not_visible for one in missing), len(missing)),
        "mean_l2_error": _mean(distances),
        "std_l2_error": float(np.std(distances)) if distances else None,
        "median_l2_error": float(np.median(distances)) if distances else None,
        **{
            name: share(sum(distance <= limit for distance in distances), len(visible))
            for name, limit in SUCCESS.items()
        },
        "hit_at_mask": share(hits, len(visible)),
        "hit_at_mask_count": hits,
        "hit_at_mask_total": len(visible),
    }


def robust_metrics(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Numbers that refusing, or answering what cannot be read, does not improve.

    Returns:
        Each as {"value", "n"}, value None where n is 0: `coverage`, answers that can be read, of all; `hit_rate`, of
        all visible targets; `accuracy`, hits and right refusals, of all; of telling whether the target is visible,
        `visible_precision`, `visible_recall`, `visible_f1`, `not_visible_recall`, `not_visible_f1` and
        `balanced_accuracy` (the mean of both recalls, None without either); `l2` and `l2_px`, means over points at
        visible targets, and their medians.
    """
    visible = [one for one in judgements if one.visible]
    missing = [one for one in judgements if not one.visible]
    seen = sum(one.says_visible for one in visible)
    claimed = sum(one.says_visible for one in judgements)
    refused = sum(one.says_not_visible for one in missing)
    recalls = [share(seen, len(visible)), share(refused, len(missing))]
    both = bool(visible and missing)
    return {
        "coverage": _of(sum(one.is_read for one in judgements), len(judgements)),
        "accuracy": _of(sum(one.right for one in judgements), len(judgements)),
        "hit_rate": _of(sum(one.hit for one in visible), len(visible)),
        "visible_precision": _of(seen, claimed),
        "visible_recall": _of(seen, len(visible)),
        "visible_f1": _of(2 * seen, claimed + len(visible)),
        "not_visible_recall": _of(refused, len(missing)),
        "not_visible_f1": _of(2 * refused, sum(one.says_not_visible for one in judgements) + len(missing)),
        "balanced_accuracy": {"value": sum(recalls) / 2 if both else None, "n": len(judgements) if both else 0},
        **_distances("l2", [one.l2 for one in visible if one.l2 is not None]),
        **_distances("l2_px", [one.l2_px for one in visible if one.l2_px is not None]),
    }


def share(number: int, of: int) -> float:
    """Of nothing it is 0, as the protocol has it."""
    return number / of if of else 0.0


def _of(number: int, of: int) -> dict[str, Any]:
    return {"value": number / of if of else None, "n": of}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _distances(name: str, values: Sequence[float]) -> dict[str, Any]:
    median = float(np.median(values)) if values else None
    return {
        name: {"value": _mean(values), "n": len(values)},
        f"{name}_median": {"value": median, "n": len(values)},
    }
