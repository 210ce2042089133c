"""How well answers agree with labels. Pure arithmetic."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def agreement(p: Sequence[float], labels: Sequence[bool]) -> float:
    """Share of answers that are right, where p >= 0.5 says yes.

    Args:
        p: probability of yes, of each answer.
        labels: whether yes is right.
    """
    return float(np.mean((np.asarray(p) >= 0.5) == np.asarray(labels, dtype=bool)))


def area_under_curve(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """Probability that of a right yes and a right no, drawn at random, the yes has the higher score; ties count half
    (Mann-Whitney's U over the number of pairs). None if all labels are equal.

    Args:
        scores: the higher, the more yes.
        labels: whether yes is right.
    """
    is_yes = np.asarray(labels, dtype=bool)
    num_yes, num_no = int(is_yes.sum()), int((~is_yes).sum())
    if not num_yes or not num_no:
        return None
    above = _mean_ranks(np.asarray(scores, dtype=float))[is_yes].sum() - num_yes * (num_yes + 1) / 2
    return float(above / (num_yes * num_no))


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
