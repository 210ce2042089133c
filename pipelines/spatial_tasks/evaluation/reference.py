"""Answers judged and counted as the reference does it (tools/eval_spatial_tasks.py of Solvement/RoboRefer-FineTuning),
defects and all.

Its own reading of the text; distances as the numbers stand, whatever frame they are in; pixels by rounding
x * (width - 1); hits over the points at visible targets alone, so that refusals and what cannot be read are in no
denominator; distances in 32-bit floats. Where its model fails, it counts an answer that cannot be read: here, a
question without a score is in no number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.spatial_tasks.evaluation.judgement import distance
from pipelines.spatial_tasks.evaluation.metrics import SUCCESS, share
from pipelines.spatial_tasks.masks import Mask, size_of
from pipelines.spatial_tasks.points import Answer, Point, read_answer


@dataclass(frozen=True)
class ReferenceJudgement:
    """An answer, judged.

    Args:
        visible: the row's own answer is not `NOT_VISIBLE`.
        answer: as it is read.
        l2: None unless both are points and the target is visible.
        hit: None likewise.
    """

    visible: bool
    answer: Answer
    l2: float | None
    hit: bool | None


def judge_as_reference(text: str, wanted: str, mask: Mask, *, is_concatenated: bool) -> ReferenceJudgement:
    """Judge a text.

    Args:
        text: what was answered.
        wanted: the row's own answer.
        mask: (height, width) of the query picture.
        is_concatenated: the row has one picture; points are of the whole of it.
    """
    answer = read_answer(text)
    visible = wanted.upper() != "NOT_VISIBLE"
    if not visible or answer.point is None:
        return ReferenceJudgement(visible, answer, None, None)
    target = read_answer(wanted).point
    l2 = distance(answer.point, target) if target else None
    return ReferenceJudgement(visible, answer, l2, _hits(answer.point, mask, is_concatenated))


def metrics_as_reference(judgements: Sequence[ReferenceJudgement]) -> dict[str, Any]:
    """The protocol's keys."""
    visible = [one for one in judgements if one.visible]
    missing = [one for one in judgements if not one.visible]
    distances = [one.l2 for one in visible if one.l2 is not None]
    as_floats = np.array(distances, dtype=np.float32)
    hits = [one.hit for one in visible if one.hit is not None]
    return {
        "total": len(judgements),
        "gt_not_visible": len(missing),
        "visible_gt": len(visible),
        "not_visible_accuracy": share(sum(one.answer.says_not_visible for one in missing), len(missing)),
        "mean_l2_error": float(as_floats.mean()) if distances else None,
        "std_l2_error": float(as_floats.std()) if distances else None,
        "median_l2_error": float(np.median(as_floats)) if distances else None,
        **{name: share(sum(found <= limit for found in distances), len(visible)) for name, limit in SUCCESS.items()},
        "hit_at_mask": share(sum(hits), len(hits)),
        "hit_at_mask_count": sum(hits),
        "hit_at_mask_total": len(hits),
    }


def _hits(point: Point, mask: Mask, is_concatenated: bool) -> bool:
    x, y = point
    if is_concatenated:
        if x < 0.5:
            return False  # on the reference
        x, y = _clamped((x - 0.5) * 2, 1.0), _clamped(y, 1.0)
    size = size_of(mask)
    column, row = (round(_clamped(share * (side - 1), side - 1)) for share, side in ((x, size.width), (y, size.height)))
    return bool(mask[row, column])


def _clamped(value: float, most: float) -> float:
    return max(0.0, min(most, value))
