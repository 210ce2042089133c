"""DPO for flow models: the better image of a pair should gain more likelihood over the reference than the worse.

Diffusion-DPO (arXiv 2311.12908) with the flow-matching error e = mean |v - (noise - x0)|^2, both images of a pair with
the same noise level and noise:

    L = -log sigmoid(-beta / 2 ((e_better - e_better_ref) - (e_worse - e_worse_ref)))

Pairs are the best and the worst of a group, as the services judge them; a group whose rewards are all equal gives none.
With `data`, they come from a file instead. Iterative: `reference_update_epochs` lets the reference follow every so many
epochs; the policy that samples is the learner, or the reference.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from generators.embeddings import PromptEmbeddings
from trainer.algorithms.algorithm import AdaptedModel, TrainingBatch
from trainer.algorithms.forward_process import ForwardProcess, ForwardProcessConfig, noised, squared_error
from trainer.algorithms.pairs import PairsAlgorithm, PairsConfig, best_and_worst, micro_batches
from trainer.metric_sums import MetricSums
from trainer.rollout import Rollout


class DpoConfig(ForwardProcessConfig, PairsConfig):
    """Settings of DPO."""

    name: Literal["dpo"]
    beta: float = Field(100.0, gt=0)


class Dpo(PairsAlgorithm):
    """DPO on pairs of clean latents.

    Args:
        config: the algorithm's settings.
        model: the policy.
        parameters: the trained parameters; see `PairsAlgorithm`.
        guidance_scale: for models that embed it.
    """

    def __init__(
        self, config: DpoConfig, model: AdaptedModel, parameters: list[torch.nn.Parameter], guidance_scale: float
    ) -> None:
        super().__init__(config, parameters)
        self._config = config
        self._process = ForwardProcess(config, model, guidance_scale)

    @property
    def passes(self) -> int:
        return self._config.noise_draws

    def batches(self, rollouts: Sequence[Rollout], advantages: NDArray[np.float64]) -> list[TrainingBatch]:
        """A pair for each group; one of a group without a best and a worst has weight 0."""
        return micro_batches(best_and_worst(rollouts, advantages), self._config.micro_batch_pairs)

    def losses(self, batch: TrainingBatch, metrics: MetricSums) -> Iterator[Tensor]:
        assert batch.rejected is not None
        kept = (batch.weights != 0).float()
        for draw in range(self._config.noise_draws):
            sigma, noise = self._process.draw(batch, draw)
            with torch.no_grad(), self._reference.in_place():
                reference = self._errors(batch.clean, batch.rejected, sigma, noise, batch.prompts)
            errors = self._errors(batch.clean, batch.rejected, sigma, noise, batch.prompts)
            better, worse = (errors - reference).chunk(2)
            inside = -0.5 * self._config.beta * (better - worse)
            loss = -F.logsigmoid(inside)
            metrics.add(kept, loss=loss, implicit_accuracy=(inside > 0).float(), margin=worse - better)
            yield (loss * kept).sum()

    def _errors(self, better: Tensor, worse: Tensor, sigma: Tensor, noise: Tensor, prompts: PromptEmbeddings) -> Tensor:
        """(2 * pairs,) flow-matching errors, first those of the better images."""
        twice = torch.cat([sigma, sigma])
        mixed = noised(torch.cat([better, worse]), twice, torch.cat([noise, noise]))
        velocity = self._process.velocity(mixed, PromptEmbeddings.concatenate([prompts, prompts]))
        return squared_error(velocity, mixed.velocity)
