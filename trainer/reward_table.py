"""The rewards of rollouts over all processes, and the advantages that this process's samples get from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from assay.rewards import RewardBatch, RewardConfig
from trainer.advantages import AdvantagesConfig, epoch_advantages
from trainer.gathering import gather_rows


@dataclass(frozen=True)
class RewardTable:
    """One row a sample, over all processes in order of process.

    Args:
        totals: (samples,) weighted rewards, NaN where there is none.
        groups: (samples,) group ids.
        components: name of a reward -> (samples,) what its service scored, NaN where that failed.
        fills: how many failed scores a `fill` policy replaced.
        own: the rows of this process.
    """

    totals: NDArray[np.float64]
    groups: NDArray[np.int64]
    components: dict[str, NDArray[np.float64]]
    fills: int
    own: slice

    @classmethod
    def gather(
        cls,
        accelerator: Accelerator,
        own_groups: Sequence[int],
        scores: Sequence[RewardBatch],
        names: Sequence[str],
    ) -> "RewardTable":
        """Build it from this process's samples' groups, their scores, and the names of the rewards."""
        groups = np.array(own_groups, dtype=np.float64)
        columns = [np.concatenate([score.totals for score in scores]), groups]
        columns += [np.concatenate([score.components[name] for score in scores]) for name in names]
        fills = gather_rows(accelerator, np.array([[float(sum(score.fills for score in scores))]]))
        rows = gather_rows(accelerator, np.stack(columns, 1))
        start = accelerator.process_index * len(groups)
        return cls(
            totals=rows[:, 0],
            groups=rows[:, 1].astype(np.int64),
            components={name: rows[:, 2 + index] for index, name in enumerate(names)},
            fills=int(fills.sum()),
            own=slice(start, start + len(groups)),
        )

    @classmethod
    def concatenate(cls, tables: Sequence["RewardTable"]) -> "RewardTable":
        """The rows of several, for metrics: `own` is of no use in it."""
        return cls(
            totals=np.concatenate([table.totals for table in tables]),
            groups=np.concatenate([table.groups for table in tables]),
            components={
                name: np.concatenate([table.components[name] for table in tables]) for name in tables[0].components
            },
            fills=sum(table.fills for table in tables),
            own=slice(0, 0),
        )

    @property
    def valid(self) -> NDArray[np.bool_]:
        return np.isfinite(self.totals)

    def own_advantages(self, config: AdvantagesConfig, rewards: Sequence[RewardConfig]) -> NDArray[np.float64]:
        """(samples of this process,) advantages."""
        return self._advantages(config, rewards)[self.own]

    def _advantages(self, config: AdvantagesConfig, rewards: Sequence[RewardConfig]) -> NDArray[np.float64]:
        global_std = config.std == "global"
        if config.normalise == "each":
            each = np.stack([_filled(self.components[reward.name], reward) for reward in rewards], 1)
            weights = [reward.weight for reward in rewards]
            return epoch_advantages(each, self.groups, self.valid, global_std=global_std, weights=weights)
        return epoch_advantages(self._trained_on(config), self.groups, self.valid, global_std=global_std)

    def metrics(self, config: AdvantagesConfig, rewards: Sequence[RewardConfig]) -> dict[str, float]:
        """Means over what has a score, what has none, and how informative the groups were."""
        trained_on, advantages = self._trained_on(config), self._advantages(config, rewards)
        dropped = np.unique(self.groups[~self.valid])
        kept = [self.groups == group for group in np.unique(self.groups) if group not in dropped]
        return {
            "reward_mean": _mean(self.totals[self.valid]),
            "strict": _mean(self._strict()[self.valid]),
            "unscored": int((~self.valid).sum()),
            "filled": self.fills,
            "groups_dropped": len(dropped),
            "zero_std_ratio": _mean(np.array([float(not advantages[members].any()) for members in kept])),
            "reward_std_mean": _mean(np.array([trained_on[members].std() for members in kept])),
            **{f"reward/{name}": _mean(values[np.isfinite(values)]) for name, values in self.components.items()},
        }

    def _trained_on(self, config: AdvantagesConfig) -> NDArray[np.float64]:
        return self._strict() if config.strict_reward else self.totals

    def _strict(self) -> NDArray[np.float64]:
        """1 where the total is 1, else 0."""
        return (self.totals == 1).astype(np.float64)


def _filled(values: NDArray[np.float64], reward: RewardConfig) -> NDArray[np.float64]:
    """With the `fill` policy's number where the reward failed; under the other policies no valid row lacks it."""
    return values if reward.fill_value is None else np.where(np.isfinite(values), values, reward.fill_value)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")
