"""From rewards to advantages, within groups of samples that share a prompt.

Formula of Flow-GRPO's tracker: A_i = (r_i - mean of its group) / (S + 1e-4), with S the population standard deviation
of all rewards of the epoch, or of the group. Computed in float64.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPSILON = 1e-4


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
        if np.ptp(values[members]) == 0:
            continue  # its mean may differ from its rewards by a rounding error, and that must teach nothing
        spread = values.std() if global_std else values[members].std()
        advantages[members] = (values[members] - values[members].mean()) / (spread + EPSILON)
    return advantages


def epoch_advantages(
    rewards: NDArray[np.float64],
    groups: NDArray[np.int64],
    valid: NDArray[np.bool_],
    *,
    global_std: bool,
) -> NDArray[np.float64]:
    """Advantages where some samples may have no reward: their whole group gets 0, and counts in no mean or deviation.

    Args:
        rewards: (samples,) rewards; not read where invalid.
        groups: (samples,) group ids.
        valid: (samples,) whether the sample has a reward.
        global_std: as for `group_advantages`.
    """
    usable = ~np.isin(groups, np.unique(groups[~valid]))
    advantages = np.zeros(len(rewards), dtype=np.float64)
    if usable.any():
        advantages[usable] = group_advantages(rewards[usable], groups[usable], global_std=global_std)
    return advantages
