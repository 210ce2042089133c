"""How the reward services did in an epoch, reward by reward: how long they took, and which scores failed.

Of all processes together. What was tried again until it succeeded is in the time it took, and in no count.
"""

from collections import Counter, defaultdict

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from assay.rewards import RewardBatch


class RewardCalls:
    """Takes note of micro-batches as they are answered, until `metrics` tells of them and begins anew."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._failures: Counter[tuple[str, str]] = Counter()

    def add(self, batch: RewardBatch) -> None:
        for name, seconds in batch.seconds.items():
            self._seconds[name].append(seconds)
        self._failures.update((name, failed.code) for _, name, failed in batch.failures)

    def metrics(self, accelerator: Accelerator) -> dict[str, float]:
        """Mean, 95th percentile and maximum of what a micro-batch took, and failed scores by their code."""
        own = [(dict(self._seconds), self._failures)]
        self._seconds, self._failures = defaultdict(list), Counter()
        seconds: dict[str, list[float]] = defaultdict(list)
        failures: Counter[tuple[str, str]] = Counter()
        for part, failed in gather_object(own) if accelerator.num_processes > 1 else own:
            for name, values in part.items():
                seconds[name] += values
            failures.update(failed)
        found: dict[str, float] = {}
        for name, values in seconds.items():
            ends = {"mean_s": np.mean(values), "p95_s": np.percentile(values, 95), "max_s": np.max(values)}
            found |= {f"reward_latency/{name}/{end}": float(value) for end, value in ends.items()}
        return {**found, **{f"reward_failures/{name}/{code}": n for (name, code), n in sorted(failures.items())}}
