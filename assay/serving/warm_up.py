"""The first sample a scorer sees: it loads kernels and proves that the model runs, before clients are let in."""

import numpy as np

from assay.serving.scorer import HasWarmUpSample, Sample, Scorer
from assay.tasks import GenEvalTask, ObjectClause, OutcomeTask, PointingTask, PotentialTask, SpatialTask, Task

SIDE = 64
_TASKS: dict[str, Task] = {
    "GenEvalTask": GenEvalTask(tag="single_object", include=(ObjectClause("apple"),)),
    "OutcomeTask": OutcomeTask(),
    "PotentialTask": PotentialTask(step=1, num_steps=2),
    "SpatialTask": SpatialTask(subject="apple", relation="left of", reference="dog"),
    "PointingTask": PointingTask(),
}


def warm_up_sample(scorer: Scorer) -> Sample:
    """The scorer's own sample, or a grey image with a task of the first kind that it accepts."""
    if isinstance(scorer, HasWarmUpSample):
        return scorer.warm_up_sample()
    info = scorer.info
    side = min(max(SIDE, info.limits.min_image_side), info.limits.max_image_side)
    grey = np.full((side, side, 3), 128, dtype=np.uint8)
    task = _TASKS[info.tasks[0]] if info.tasks else None
    return Sample(id="warm-up", images=(grey,), prompt="an apple", task=task)
