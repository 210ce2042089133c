"""Supervised fine-tuning of Show-o on captioned pictures: the cold start before preferences.

    L = - sum over hidden tokens of log softmax(logits)[code] / number of tokens

Every hidden token counts alike, as in the published loss (Xie et al., 2024, arXiv 2408.12528, section 3.3), which
divides by how many are hidden in the batch; the number of all tokens is the same for every batch and process.
Probabilities are among the image codes (see `showo_dpo`), and soi and eoi are not learnt anew.
"""

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from trainer.algorithms.algorithm import Algorithm, TrainingBatch
from trainer.algorithms.captioned import CaptionedConfig
from trainer.algorithms.masked_tokens import MaskDraws, MaskedModel, MaskedTokensConfig, draw
from trainer.metric_sums import MetricSums


class ShowoSftConfig(CaptionedConfig, MaskedTokensConfig):
    """Settings of supervised fine-tuning of Show-o."""

    name: Literal["showo_sft"]


class ShowoSft(Algorithm):
    """Cross-entropy of hidden codes. Prompts are left out where the batches are made.

    Args:
        config: the algorithm's settings.
        model: the policy.
    """

    def __init__(self, config: ShowoSftConfig, model: MaskedModel) -> None:
        super().__init__()
        self._config, self._model = config, model

    @property
    def passes(self) -> int:
        return 1

    def losses(self, batch: TrainingBatch, metrics: MetricSums) -> Iterator[Tensor]:
        number, tokens = batch.clean.shape
        drawn = draw(self._config, batch.seeds, tokens)
        draws = MaskDraws(drawn.masked.to(batch.clean.device), drawn.dropped.to(batch.clean.device))
        log_probs = self._model.log_probs(
            draws.prompts(batch.prompts, batch.prompts.row(0)),
            batch.clean.repeat_interleave(self._config.mask_draws, 0),
            draws.masked.flatten(0, 1),
        )
        summed = -log_probs.sum(1).view(number, -1)
        loss = summed.mean(1) / tokens
        entropy = (summed / draws.masked.sum(-1)).mean(1)
        metrics.add(batch.weights, loss=loss, cross_entropy=entropy)
        yield (loss * batch.weights).sum()
