"""Run a scorer on a batch so that one bad sample fails alone. Called on the model thread.

When a batch raises, it is halved until the sample at fault stands alone; that one gets INTERNAL with an id, and the
traceback goes to the log under the id. When it runs out of memory, it is halved and the pixel budget with it.
"""

import logging
import math
import uuid
from collections.abc import Callable, Sequence

from assay.outcomes import Failed, Outcome, Scored
from assay.serving.scorer import Sample, Scorer

logger = logging.getLogger("assay.serving")

# By name, so that this package need not import torch. torch.OutOfMemoryError is the same class as torch.cuda's.
_OUT_OF_MEMORY = {"OutOfMemoryError", "MemoryError"}


def score_isolated(
    scorer: Scorer,
    batch: Sequence[Sample],
    on_out_of_memory: Callable[[int], None],
    request_ids: Sequence[str] = (),
) -> list[Outcome]:
    """One outcome for each sample, whatever the scorer does.

    Args:
        scorer: the reward model.
        batch: samples, at least one.
        on_out_of_memory: called with the number of pixels of each batch that did not fit.
        request_ids: of the calls that the samples came with, for the log; may be left out.
    """
    try:
        return _checked(scorer.score(batch), len(batch))
    except (Exception, SystemExit) as error:  # the batch executor: the one place where a scorer's errors end
        if len(batch) == 1:
            return [_failed(scorer, batch[0], error, *request_ids)]
        out_of_memory = is_out_of_memory(error)
        if out_of_memory:
            on_out_of_memory(sum(count_pixels(sample) for sample in batch))
        logger.warning(
            "%s: a batch of %d %s; halving it",
            scorer.info.name,
            len(batch),
            "ran out of memory" if out_of_memory else f"raised {type(error).__name__}",
        )
    # Out of the except clause: the traceback would keep the tensors of the failed batch alive.
    middle = len(batch) // 2
    return [
        outcome
        for half in (slice(middle), slice(middle, None))
        for outcome in score_isolated(scorer, batch[half], on_out_of_memory, request_ids[half])
    ]


def count_pixels(sample: Sample) -> int:
    """Pixels of all images of a sample."""
    return sum(image.shape[0] * image.shape[1] for image in sample.images)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the host or of the accelerator did not suffice."""
    return any(cls.__name__ in _OUT_OF_MEMORY for cls in type(error).__mro__)


def _checked(outcomes: Sequence[Outcome], num_samples: int) -> list[Outcome]:
    if len(outcomes) != num_samples:
        raise RuntimeError(f"the scorer returned {len(outcomes)} outcomes for {num_samples} samples")
    return [_finite(outcome) for outcome in outcomes]


def _finite(outcome: Outcome) -> Outcome:
    """A score that is no number is a failure, and says so."""
    if isinstance(outcome, Failed):
        return outcome
    if not isinstance(outcome, Scored):
        raise TypeError(f"the scorer returned a {type(outcome).__name__}, neither Scored nor Failed")
    named = {"value": outcome.value, **outcome.components}
    for name, number in named.items():
        if not math.isfinite(number):
            return Failed("INTERNAL", "SCORE_NOT_FINITE", f"the scorer computed {name} = {number}")
    return outcome


def _failed(scorer: Scorer, sample: Sample, error: BaseException, request_id: str = "") -> Failed:
    error_id = uuid.uuid4().hex[:12]
    message = "%s: sample %r failed (error id %s)"
    about = {"request_id": request_id}
    logger.error(message, scorer.info.name, sample.id, error_id, exc_info=error, extra=about)
    if is_out_of_memory(error):
        return Failed(
            "RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", f"the image alone does not fit in memory; error id {error_id}"
        )
    return Failed("INTERNAL", "SCORER_RAISED", f"the scorer failed on this item; error id {error_id}")
