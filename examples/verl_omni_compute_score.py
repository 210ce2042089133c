"""Assay's rewards in VeRL-Omni (github.com/verl-project/verl-omni), as one `compute_score` an image.

Its reward managers load the function by file and name and call it by keyword: `data_source`, `solution_image`,
`ground_truth`, `extra_info`, and what the configuration adds. With several weighted rewards:

    reward.reward_manager.name=MultiVisualRewardManager
    +reward.reward_functions.counting.path=examples/verl_omni_compute_score.py
    +reward.reward_functions.counting.name=compute_score
    +reward.reward_functions.counting.weight=1.0
    +reward.reward_functions.counting.required=true
    +reward.reward_functions.counting.targets=[localhost:50051]
    +reward.reward_functions.counting.scorer=counting

`required=true` is not optional: without it, that manager puts 0 in place of whatever fails. With one reward, name path
and name under `reward.custom_reward_function`, and targets and scorer under its `reward_kwargs`.

In the dataset, `ground_truth` is the prompt, and `extra_info["geneval"]` the row of GenEval that says what to judge, as
JSON text: parquet would give rows of different shape each other's fields.

The convention is that of `verl_omni/reward_loop/reward_manager/{visual,multi}.py` at commit 1486d9c, whose pictures are
uint8; those of earlier versions, floats in [0, 1], are taken, too.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from assay.rewards import RewardConfig, RewardSet


async def compute_score(
    data_source: str,
    solution_image: torch.Tensor,
    ground_truth: str,
    extra_info: Mapping[str, Any],
    *,
    targets: Sequence[str],
    scorer: str,
    components: Sequence[str] = (),
    fingerprint: str | None = None,
    deadline_s: float = 600.0,
    **_of_the_manager: Any,
) -> dict[str, float]:
    """Score one image. Many calls are under way at once; the service batches them.

    Args:
        data_source: not used; the scorer is named by the configuration.
        solution_image: (3, height, width), or a batch of one; uint8, or float in [0, 1].
        ground_truth: the prompt.
        extra_info: holds `geneval`, a row of GenEval as JSON text or mapping.
        targets: addresses of the service's replicas. A token is taken from the environment variable ASSAY_TOKEN.
        scorer: which of the service's scorers.
        components: parts of the score to be logged. Name those that every image has: the trainer wants equal keys.
        fingerprint: the expected one; None pins the first one that this process sees.
        deadline_s: for the image, retries included.

    Returns:
        `score`, and the named components.

    Raises:
        ScoringFailedError: the image has no score; there is no number to give back for it.
        ValueError: the image or the row is not what is asked for above.
    """
    rewards = _rewards((targets,) if isinstance(targets, str) else tuple(targets), scorer, fingerprint, deadline_s)
    image, task = _pixels(solution_image), _task(extra_info)
    # Off the reward worker's loop: the first call waits for the service to tell its fingerprint.
    future = await asyncio.to_thread(rewards.submit, [image], [ground_truth], [task])
    batch = await asyncio.wrap_future(future)
    parts = {name: float(batch.components[f"{scorer}/{name}"][0]) for name in components}
    return {"score": float(batch.totals[0]), **parts}


@lru_cache
def _rewards(targets: tuple[str, ...], scorer: str, fingerprint: str | None, deadline_s: float) -> RewardSet:
    """One set of channels a process, whatever the number of calls."""
    config = RewardConfig(name=scorer, scorer=scorer, targets=targets, fingerprint=fingerprint, on_failure="raise")
    return RewardSet([config], token=os.environ.get("ASSAY_TOKEN"), deadline_s=deadline_s)


def _task(extra_info: Mapping[str, Any]) -> Mapping[str, Any]:
    row = extra_info.get("geneval")
    if row is None:
        raise ValueError(
            f"extra_info has no 'geneval', the row that says what to judge; it has: {', '.join(extra_info)}"
        )
    task: Mapping[str, Any] = json.loads(row) if isinstance(row, str) else row
    return task


def _pixels(image: torch.Tensor) -> Any:
    """(height, width, 3) uint8."""
    image = image[0] if image.ndim == 4 and len(image) == 1 else image
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"solution_image has shape {tuple(image.shape)}; it must be one image, (3, height, width)")
    if image.is_floating_point():
        # A latent, or pixels in [-1, 1], would be clipped into some picture and get some score.
        if not bool(((image >= 0) & (image <= 1)).all()):
            raise ValueError("solution_image is of floats that are not all in [0, 1]: no picture, or one that diverged")
        image = (image.float() * 255).round()
    elif image.dtype != torch.uint8:
        raise ValueError(f"solution_image is of {image.dtype}; it must be uint8, or floats in [0, 1]")
    return image.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
