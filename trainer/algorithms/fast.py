"""Flow-GRPO-Fast: noise in a short window of the sampler's steps, which alone are trained.

All members of a group share the window: they differ in the noise of the same steps, so that what the reward says of
them can be credited to those steps. (The released code draws a window a process and micro-batch while a group is spread
over processes; windows drawn for each image were measured to collapse: docs/contributing/common_pitfalls.md of
verl-omni.)
"""

from collections.abc import Sequence

import torch
from pydantic import Field

from assay.config import ConfigModel
from trainer.sampling import StepPlan


class WindowConfig(ConfigModel):
    """Where the window may lie."""

    size: int = Field(3, ge=1, description="steps with noise, all trained")
    first: int = Field(0, ge=0, description="earliest step of the window")
    last: int = Field(ge=0, description="latest step at which it may end; the sampler's last step never is in it")

    def check(self, num_steps: int) -> None:
        """Raise ValueError unless a window fits between `first` and `last`, the sampler's last step left out."""
        if self.last > num_steps - 2:
            raise ValueError(f"algorithm.window.last is {self.last}; at most {num_steps - 2} with {num_steps} steps")
        if self.last - self.first + 1 < self.size:
            raise ValueError(
                f"algorithm.window.size is {self.size}; at most {self.last - self.first + 1} "
                f"between steps {self.first} and {self.last}"
            )


def window_plan(window: WindowConfig, group_seeds: Sequence[int], num_steps: int, noise_level: float) -> StepPlan:
    """Noise in each sample's window alone; equal seeds have equal windows."""
    starts = [_start(window, seed) for seed in group_seeds]
    trained = torch.tensor([list(range(start, start + window.size)) for start in starts])
    noise_levels = torch.zeros(len(starts), num_steps).scatter_(1, trained, noise_level)
    return StepPlan(noise_levels, trained)


def _start(window: WindowConfig, seed: int) -> int:
    highest = window.last - window.size + 2
    return int(torch.randint(window.first, highest, (), generator=torch.Generator().manual_seed(seed)))
