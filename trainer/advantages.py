"""From rewards to advantages, within groups of samples that share a prompt.

Formula of Flow-GRPO's tracker: A_i = (r_i - mean of its group) / (S + 1e-4), with S the population standard deviation
of all rewards of the epoch, or of the group. Computed in float64.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from assay.config import ConfigModel

EPSILON = 1e-4


class AdvantagesConfig(ConfigModel):
    """How rewards become advantages."""

    std: Literal["global", "group"] = Field(
        "global", description="deviation of all rewards of the epoch, or of the group alone"
    )
    normalise: Literal["total", "each"] = Field(
        "total", description="the weighted sum of the rewards; or each reward by itself before they are summed (GDPO)"
    )
    strict_reward: bool = Field(False, description="train on 1 where the total is 1, else 0")

    @property
    def are_of_groups(self) -> bool:
        """Whether a group's advantages depend on its own rewards alone, not on the others of the epoch."""
        return self.std == "group" and self.normalise == "total"


def is_tie(rewards: NDArray[np.float64]) -> bool:
    """Whether all are equal, to rounding: a sum of several rewards is not exact, and that must teach nothing."""
    return bool(np.ptp(rewards) <= 1e-9 * max(1.0, np.abs(rewards).max()))


def group_advantages(
    rewards: ArrayLike, groups: Sequence[int] | Sequence[str] | NDArray[np.int64], *, global_std: bool
) -> NDArray[np.float64]:
    """Advantages of one epoch's samples.

    Args:
        rewards: (samples,) finite rewards.
        groups: (samples,) identity of each sample's group.
        global_std: divide by the deviation of all rewards; otherwise by that of the sample's own group.

    Returns:
        (samples,) float64; zero for every sample of a group whose rewards are all equal.

    Raises:
        ValueError: a reward is not finite, or the lengths differ.
    """
    values = np.asarray(rewards, dtype=np.float64)
    _, owner = np.unique(np.asarray(groups), return_inverse=True)
    if values.shape != owner.shape:
        raise ValueError(f"rewards and groups must have one entry a sample; got {values.shape} and {owner.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"rewards must be finite; {int((~np.isfinite(values)).sum())} of {len(values)} are not")
    advantages = np.zeros_like(values)
    for group in range(owner.max(initial=-1) + 1):
        members = owner == group
        if is_tie(values[members]):
            continue
        spread = values.std() if global_std else values[members].std()
        advantages[members] = (values[members] - values[members].mean()) / (spread + EPSILON)
    return advantages


def decoupled_advantages(
    rewards: NDArray[np.float64], weights: Sequence[float], groups: NDArray[np.int64], *, global_std: bool
) -> NDArray[np.float64]:
    """Advantages of several rewards, each normalised by itself: a reward of small spread is not drowned by a large one.

    GDPO (arXiv 2601.05242): A = sum_k weight_k A_k, over the deviation of A over all samples.

    Args:
        rewards: (samples, rewards) finite.
        weights: (rewards,) factors.
        groups: (samples,) group ids.
        global_std: as for `group_advantages`, of each A_k.
    """
    columns = [group_advantages(column, groups, global_std=global_std) for column in rewards.T]
    total: NDArray[np.float64] = np.asarray(weights) @ np.stack(columns)
    for group in np.unique(groups):
        if is_tie(total[groups == group]):
            total[groups == group] = 0  # rewards that cancel out
    return total / (total.std() + EPSILON)


def epoch_advantages(
    rewards: NDArray[np.float64],
    groups: NDArray[np.int64],
    valid: NDArray[np.bool_],
    *,
    global_std: bool,
    weights: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """Advantages where some samples may have no reward: their whole group gets 0, and counts in no mean or deviation.

    Args:
        rewards: (samples,) rewards, or with `weights` (samples, rewards) to be normalised one by one; not read where
            invalid.
        groups: (samples,) group ids.
        valid: (samples,) whether the sample has its rewards.
        global_std: as for `group_advantages`.
        weights: (rewards,).
    """
    usable = ~np.isin(groups, np.unique(groups[~valid]))
    advantages = np.zeros(len(rewards), dtype=np.float64)
    if usable.any():
        chosen, owners = rewards[usable], groups[usable]
        advantages[usable] = (
            group_advantages(chosen, owners, global_std=global_std)
            if weights is None
            else decoupled_advantages(chosen, weights, owners, global_std=global_std)
        )
    return advantages
