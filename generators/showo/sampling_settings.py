"""The settings of mask-and-predict sampling, and the temperatures that follow from them."""

from dataclasses import dataclass
from typing import Literal, get_args

from assay.errors import ConfigError
from generators.showo.schedules import mask_schedule

Anneal = Literal["cumulative", "linear"]


@dataclass(frozen=True)
class SamplingSettings:
    """How to draw.

    Args:
        num_steps: forward passes, at least 1; 16 to 18 for 256 pixels, 50 for 512.
        guidance_scale: g of (1 + g) * conditional - g * unconditional, on logits (Muse); 0 is off and costs half.
        temperature: of the chance in which tokens are masked again, in [0, 1].
        schedule: share of masked tokens over the steps, see `mask_schedule`.
        anneal: with r the progress, `cumulative` multiplies the temperature by 1 - r at each step, as the published
            sampler does; `linear` takes temperature * (1 - r).
        temperature_carry: reproduces the published best-of-N scripts, which never set the temperature back: all
            candidates of a prompt but the first are drawn at temperature 0.

    Raises:
        ConfigError: a value is out of range.
    """

    num_steps: int = 18
    guidance_scale: float = 1.75
    temperature: float = 1.0
    schedule: str = "cosine"
    anneal: Anneal = "cumulative"
    temperature_carry: bool = False

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ConfigError(f"num_steps is {self.num_steps}; allowed: at least 1")
        if self.guidance_scale < 0:
            raise ConfigError(f"guidance_scale is {self.guidance_scale}; allowed: at least 0")
        if not 0 <= self.temperature <= 1:  # beyond, the noise could outweigh the certainty of known tokens
            raise ConfigError(f"temperature is {self.temperature}; allowed: 0 to 1")
        if self.anneal not in get_args(Anneal):
            raise ConfigError(f"anneal is {self.anneal!r}; allowed: {', '.join(get_args(Anneal))}")
        mask_schedule(self.schedule)

    def temperatures(self) -> list[float]:
        """The temperature of each step."""
        temperature, values = self.temperature, []
        for step in range(self.num_steps):
            left = 1 - (step + 1) / self.num_steps
            temperature = temperature * left if self.anneal == "cumulative" else self.temperature * left
            values.append(temperature)
        return values
