"""Means, deviations and extremes of what is measured while training, over samples, steps and processes."""

from dataclasses import dataclass, field
from math import isnan, nan, sqrt

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor


@dataclass
class MetricSums:
    """Named sums; `add` is called once for each micro-batch and step."""

    numbers: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    squares: dict[str, float] = field(default_factory=dict)
    maxima: dict[str, float] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, kept: Tensor, **values: Tensor) -> None:
        """Add (batch,) values where `kept` (batch,) is not 0."""
        chosen = kept != 0
        self._add(int(chosen.sum()), {name: value.detach().double()[chosen] for name, value in values.items()})

    @torch.no_grad()
    def add_by_step(self, kept: Tensor, steps: Tensor, **values: Tensor) -> None:
        """As `add`, under `NAME_step/INDEX` of each sample's own step (batch,)."""
        for step in steps.unique().tolist():
            chosen = (kept != 0) & (steps == step)
            parts = {f"{name}_step/{step:02d}": value.detach().double()[chosen] for name, value in values.items()}
            self._add(int(chosen.sum()), parts)

    @torch.no_grad()
    def highest(self, name: str, kept: Tensor, value: Tensor) -> None:
        """Keep the largest value where `kept` is not 0; 0 where nothing is, NaN where one is."""
        chosen = value.detach()[kept != 0].tolist()
        self.maxima[name] = _highest([self.maxima.get(name, 0.0), *chosen])

    def merge(self, other: "MetricSums") -> None:
        for name, number in other.numbers.items():
            for mine, theirs in ((self.sums, other.sums), (self.squares, other.squares)):
                mine[name] = mine.get(name, 0.0) + theirs[name]
            self.numbers[name] = self.numbers.get(name, 0.0) + number
        for name, value in other.maxima.items():
            self.maxima[name] = _highest([self.maxima.get(name, 0.0), value])

    def gather(self, accelerator: Accelerator) -> "MetricSums":
        """Those of all processes together; every process calls it."""
        if accelerator.num_processes == 1:
            return self
        everyone = MetricSums()
        for part in gather_object([self]):
            everyone.merge(part)
        return everyone

    def means(self) -> dict[str, float]:
        """Mean of each name, deviations of those by step, and the maxima."""
        found = {name: self.sums[name] / number for name, number in sorted(self.numbers.items())}
        for name, number in sorted(self.numbers.items()):
            if "_step/" in name:
                variance = self.squares[name] / number - found[name] ** 2
                found[name.replace("_step/", "_deviation_step/")] = sqrt(max(0.0, variance))
        return {**found, **self.maxima}

    def _add(self, number: int, values: dict[str, Tensor]) -> None:
        if number == 0:
            return
        for name, chosen in values.items():
            self.numbers[name] = self.numbers.get(name, 0.0) + number
            self.sums[name] = self.sums.get(name, 0.0) + chosen.sum().item()
            self.squares[name] = self.squares.get(name, 0.0) + (chosen**2).sum().item()


def _highest(values: list[float]) -> float:
    return nan if any(isnan(value) for value in values) else max(values)
