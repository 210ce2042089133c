"""Assay's rewards in Flow-GRPO's trainers (github.com/yifan123/flow_grpo; convention of its main of November 2025).

Its training scripts (`scripts/train_*.py`) make their reward functions from the configuration's weights:

    reward_fn = getattr(flow_grpo.rewards, 'multi_score')(accelerator.device, config.reward_fn)
    eval_reward_fn = getattr(flow_grpo.rewards, 'multi_score')(accelerator.device, config.reward_fn)

Put this file beside the script and write instead, with `config.reward_fn = {"counting": 1.0}` naming Assay's scorers:

    from flow_grpo_score_fn import make_score_fn
    reward_fn = eval_reward_fn = make_score_fn(config.reward_fn, ["localhost:50051"])

Everything else stays. The scorers called geneval and counting want the dataset's GenEval rows as `metadata`, which
`config.prompt_fn = "geneval"` provides. Pixels travel as they are: no JPEG, no pickle.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from assay.rewards import RewardBatch, RewardConfig, RewardSet

ScoreFn = Callable[..., tuple[dict[str, list[float]], dict[str, Any]]]

#: Keys under which the trainers log GenEval's verdicts -> the components of Assay's scores that they are.
VERDICTS = {"accuracy": "correct", "strict_accuracy": "strict_correct"}

#: `on_failure` here -> in `assay.rewards`.
POLICIES = {"raise": "raise", "nan": "drop_group"}


def make_score_fn(
    weights: Mapping[str, float],
    targets: Sequence[str],
    *,
    on_failure: Literal["raise", "nan"] = "raise",
    token: str | None = None,
    **client_options: Any,
) -> ScoreFn:
    """A function that the trainers call as they call that of `multi_score`.

    Args:
        weights: scorer -> weight; `avg`, which is trained on, is the weighted sum.
        targets: addresses of the service's replicas.
        on_failure: what becomes of an image without a score. `raise` stops the training. `nan` gives NaN, and is for
            trainers that leave NaN out: in Flow-GRPO's own statistics one NaN spreads to every advantage of the epoch.
        token: bearer token of the service.
        client_options: further arguments of `assay.client.RewardClient`, e.g. `deadline_s`.

    Raises:
        ValueError: an argument makes no sense. What the service refuses is raised when scores are asked for.
    """
    if on_failure not in POLICIES:
        raise ValueError(f"on_failure = {on_failure!r}: must be one of {', '.join(POLICIES)}")
    shared = {"targets": targets, "on_failure": POLICIES[on_failure]}
    configs = [
        RewardConfig.model_validate({"name": name, "scorer": name, "weight": weight, **shared})
        for name, weight in weights.items()
    ]
    rewards = RewardSet(configs, token=token, **client_options)

    def score_fn(
        images: Any, prompts: Sequence[str], metadata: Sequence[Any], ref_images: Any = None, only_strict: bool = True
    ) -> tuple[dict[str, list[float]], dict[str, Any]]:
        """Score a micro-batch and wait. Safe to call from many threads at once, as the trainers' executor does.

        Args:
            images: tensor (batch, 3, height, width), float in [0, 1]; or uint8 array (batch, height, width, 3).
            prompts: (batch,) prompts.
            metadata: (batch,) GenEval rows.
            ref_images: what editing trainers pass; the pictures are judged without them.
            only_strict: ignored; all verdicts come from one look at the picture.

        Returns:
            Each scorer's rewards by its name, `avg`, and the verdicts if the scorer gives them; and an empty dict.
        """
        batch = rewards.score(_pixels(images), list(prompts), list(metadata))
        return _named(batch, weights), {}

    return score_fn


def _named(batch: RewardBatch, weights: Mapping[str, float]) -> dict[str, list[float]]:
    # The same keys for every micro-batch: the trainers concatenate by key. Counts of single classes are left out.
    named = {name: batch.components[name].tolist() for name in weights}
    for key, component in VERDICTS.items():
        found = [
            batch.components[f"{name}/{component}"] for name in weights if f"{name}/{component}" in batch.components
        ]
        if found:
            named[key] = found[0].tolist()
    return {**named, "avg": batch.totals.tolist()}


def _pixels(images: Any) -> list[Any]:
    """Images, each (height, width, 3) uint8, rounded as Flow-GRPO does.

    Raises:
        ValueError: `images` is none of what `score_fn` takes, or not finite: a diverged policy must not be scored.
    """
    if isinstance(images, torch.Tensor) and images.is_floating_point() and images.ndim == 4 and images.shape[1] == 3:
        if not bool(images.isfinite().all()):
            raise ValueError("images are not finite: the policy has diverged, or the precision overflows")
        return list((images.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3:
        return list(images)
    raise ValueError(
        f"images are {type(images).__name__} of {getattr(images, 'dtype', None)} and shape "
        f"{tuple(getattr(images, 'shape', ()))}; they must be a float tensor (batch, 3, height, width) in [0, 1] or "
        "a uint8 array (batch, height, width, 3)"
    )
