"""Supervised fine-tuning by flow matching on a folder of images: the cold start before reinforcement.

    L = mean |v(x_sigma) - (noise - x0)|^2,   x_sigma = (1 - sigma) x0 + sigma noise

with logit-normal noise levels (arXiv 2403.03206). The saved LoRA goes into `model.cold_start_lora` of a later run,
which fuses it: the KL reference of that run is then the cold-started model.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor

from trainer.algorithms.algorithm import AdaptedModel, Algorithm, TrainingBatch
from trainer.algorithms.captioned import CaptionedConfig
from trainer.algorithms.forward_process import ForwardProcess, ForwardProcessConfig, noised, squared_error
from trainer.metric_sums import MetricSums


class SftConfig(CaptionedConfig, ForwardProcessConfig):
    """Settings of supervised fine-tuning."""

    name: Literal["sft"]
    noise_draws: int = Field(1, ge=1)


class FlowMatching(Algorithm):
    """Weighted flow matching on clean latents.

    Args:
        config: which noise levels, and how many.
        model: the policy.
        guidance_scale: for models that embed it.
    """

    def __init__(self, config: ForwardProcessConfig, model: AdaptedModel, guidance_scale: float) -> None:
        super().__init__()
        self._draws = config.noise_draws
        self._process = ForwardProcess(config, model, guidance_scale)

    @property
    def passes(self) -> int:
        return self._draws

    def losses(self, batch: TrainingBatch, metrics: MetricSums) -> Iterator[Tensor]:
        kept = (batch.weights != 0).float()
        for draw in range(self._draws):
            mixed = noised(batch.clean, *self._process.draw(batch, draw))
            error = squared_error(self._process.velocity(mixed, batch.prompts), mixed.velocity)
            loss = batch.weights * error
            metrics.add(kept, loss=loss, flow_matching_error=error)
            yield loss.sum()
