"""DPO for Show-o: the better image of a pair should gain more likelihood over the reference than the worse.

An image hidden in part by a mask M has the log-probability L(x) = sum over M of log softmax(logits)[code] (Guo et al.,
2025, arXiv 2501.13926, section 3.3, as published with it), and with D the mean over `mask_draws` masks of

    (L_policy(better) - L_policy(worse)) - (L_reference(better) - L_reference(worse))

the loss is -log sigmoid(beta D), to which `sft_weight` adds the mean cross-entropy of the better image's hidden codes.
The mean over masks stands inside the sigmoid, where it makes D itself less noisy (as in VRPO, arXiv 2505.19223).

What differs from the published loss, each to be had back by a switch of `compat` (what else differs of the training
has none, and is listed in docs/show_o_training.md):

- Both images of a pair are hidden in the same places, under the same prompt. Drawn apart, 200 hidden tokens of one may
  stand against 20 of the other, and D has the chance of both draws in it.
- Probabilities are among the image codes, from which the sampler draws. Among all ids D can grow by moving
  probability away from words, which no image ever shows.
- soi and eoi, which the model sees, are not counted among the image's tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from assay.config import ConfigModel
from generators.embeddings import PromptEmbeddings
from trainer.algorithms.algorithm import TrainingBatch
from trainer.algorithms.guidance import GuidanceConfig, pair_weights
from trainer.algorithms.masked_tokens import MaskDraws, MaskedModel, MaskedTokensConfig, draw
from trainer.algorithms.pairs import PairsAlgorithm, PairsConfig, best_and_worst, micro_batches
from trainer.metric_sums import MetricSums
from trainer.prompts import stable_seed
from trainer.rollout import Rollout


class ShowoDpoCompat(ConfigModel):
    """What the published training does otherwise; see the module."""

    independent_draws: bool = Field(False, description="each image of a pair has its own mask and its own text dropout")
    whole_vocabulary: bool = Field(False, description="probabilities among all ids, not among the image codes")
    count_marks: bool = Field(False, description="soi and eoi count too; goes with whole_vocabulary")

    @model_validator(mode="after")
    def _marks_are_no_codes(self) -> "ShowoDpoCompat":
        if self.count_marks and not self.whole_vocabulary:
            raise ValueError("algorithm.compat.count_marks needs whole_vocabulary: soi and eoi are no image codes")
        return self


class ShowoDpoConfig(MaskedTokensConfig, PairsConfig):
    """Settings of DPO for Show-o."""

    name: Literal["showo_dpo"]
    beta: float = Field(0.1, gt=0)
    sft_weight: float = Field(0.0, ge=0, description="of the better image's cross-entropy, against both losing")
    normalise_length: bool = Field(
        False, description="L counts as if all tokens were hidden: masks that hide few then weigh as much as others"
    )
    prompt_dropout: float = Field(0.1, ge=0, lt=1, description="share of draws without the prompt, for guidance")
    guidance: GuidanceConfig | None = Field(None, description="a verifier, served as `rewards`, weighs the pairs")
    compat: ShowoDpoCompat = ShowoDpoCompat()


class ShowoDpo(PairsAlgorithm):
    """DPO on pairs of image codes.

    Args:
        config: the algorithm's settings.
        model: the policy.
        negative: ids of the empty prompt (batch 1).
        parameters: the trained parameters; see `PairsAlgorithm`.
    """

    def __init__(
        self,
        config: ShowoDpoConfig,
        model: MaskedModel,
        negative: PromptEmbeddings,
        parameters: list[torch.nn.Parameter],
    ) -> None:
        super().__init__(config, parameters)
        self._config, self._model, self._negative = config, model, negative

    @property
    def passes(self) -> int:
        return 1

    def batches(self, rollouts: Sequence[Rollout], advantages: NDArray[np.float64]) -> list[TrainingBatch]:
        """A pair for each group; one of a group without a best and a worst has weight 0. With guidance the weights of
        the others follow from the rewards themselves."""
        pairs = best_and_worst(rollouts, advantages)
        if self._config.guidance is not None:
            totals = np.concatenate([rollout.rewards.result().totals for rollout in rollouts])
            groups = np.array([sample.group for rollout in rollouts for sample in rollout.samples])
            pairs = [
                replace(pair, weights=pair.weights * self._lead(totals[groups == group]).to(pair.weights))
                for pair, group in zip(pairs, dict.fromkeys(groups.tolist()), strict=True)
            ]
        return micro_batches(pairs, self._config.micro_batch_pairs)

    def losses(self, batch: TrainingBatch, metrics: MetricSums) -> Iterator[Tensor]:
        assert batch.rejected is not None
        sides = [(codes, self._draws(batch, side)) for side, codes in enumerate((batch.clean, batch.rejected))]
        with torch.no_grad(), self._reference.in_place():
            reference = self._log_probs(batch, sides)
        log_probs = self._log_probs(batch, sides)
        better, worse = (log_probs - reference).mean(2)
        margin = better - worse
        loss = -F.logsigmoid(self._config.beta * margin)
        if self._config.sft_weight:
            loss = loss + self._config.sft_weight * self._cross_entropy(log_probs[0], sides[0][1].masked)
        metrics.add(
            batch.weights,
            loss=loss,
            implicit_accuracy=(margin > 0).float(),
            margin=margin,
            gain_better=better,
            gain_worse=worse,
            pair_weight=batch.weights,
        )
        yield (loss * batch.weights).sum()

    def _lead(self, totals: NDArray[np.float64]) -> Tensor:
        """(1,) weight of the pair made of a group with these rewards."""
        assert self._config.guidance is not None
        best, worst = (torch.tensor([pick(totals)]) for pick in (np.max, np.min))
        return pair_weights(self._config.guidance, best, worst)

    def _draws(self, batch: TrainingBatch, side: int) -> MaskDraws:
        seeds = batch.seeds
        if self._config.compat.independent_draws:
            seeds = [stable_seed("side", seed, side) for seed in seeds]
        found = draw(self._config, seeds, batch.clean.shape[1], self._config.prompt_dropout)
        device = batch.clean.device
        return MaskDraws(found.masked.to(device), found.dropped.to(device))

    def _log_probs(self, batch: TrainingBatch, sides: Sequence[tuple[Tensor, MaskDraws]]) -> Tensor:
        """L of the policy in place: (2, pairs, draws), first the better images; in one pass."""
        config, draws = self._config, self._config.mask_draws
        prompts = [own.prompts(batch.prompts, self._negative) for _, own in sides]
        codes = torch.cat([codes.repeat_interleave(draws, 0) for codes, _ in sides])
        masked = torch.stack([own.masked for _, own in sides])
        found = self._model.log_probs(
            PromptEmbeddings.concatenate(prompts),
            codes,
            masked.flatten(0, 2),
            whole_vocabulary=config.compat.whole_vocabulary,
        )
        if config.compat.whole_vocabulary and not config.compat.count_marks:
            found = found[:, 1:-1]
        summed = found.sum(1).view(2, -1, draws)
        if config.normalise_length:
            summed = summed * masked.shape[-1] / masked.sum(-1)
        return summed

    def _cross_entropy(self, log_probs: Tensor, masked: Tensor) -> Tensor:
        """(pairs,) mean over the hidden codes: of L (pairs, draws) and the masks (pairs, draws, tokens)."""
        counted = masked.shape[-1] if self._config.normalise_length else masked.sum(-1)
        return -(log_probs / counted).mean(1)
