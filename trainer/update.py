"""An optimizer step: losses of all micro-batches, gradients summed over processes, one step, its average.

The trained adapter is small, so its gradients are summed over the processes in one message before each step. A step is
the mean over all samples of all processes that have a weight: the numbers do not depend on how samples are spread.
"""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator

from trainer.algorithms.algorithm import Algorithm, TrainingBatch
from trainer.config import OptimizerConfig
from trainer.ema import Ema
from trainer.gathering import gather_rows
from trainer.metric_sums import MetricSums


class PolicyUpdate:
    """Owns the optimizer.

    Args:
        settings: settings of AdamW.
        parameters: trained parameters by name.
        algorithm: turns batches into losses.
        ema: the parameters' average, or None.
        accelerator: processes and mixed precision.
    """

    def __init__(
        self,
        settings: OptimizerConfig,
        parameters: dict[str, torch.nn.Parameter],
        algorithm: Algorithm,
        ema: Ema | None,
        accelerator: Accelerator,
    ) -> None:
        self._settings, self._parameters = settings, list(parameters.values())
        self._algorithm, self._ema, self._accelerator = algorithm, ema, accelerator
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            eps=settings.epsilon,
        )
        self._prepared = accelerator.prepare(self.optimizer)
        if accelerator.scaler is not None:
            # Its scale exists from the first use on; a process without anything to learn must have one too.
            accelerator.scaler.scale(torch.zeros((), device=accelerator.device))
        self.global_step = 0

    def step(self, batches: Sequence[TrainingBatch], metrics: MetricSums) -> float | None:
        """One optimizer step; returns the gradient's norm, or None where no process had anything to learn.

        Args:
            batches: this process's.
            metrics: this process's sums are added here.
        """
        own = np.array([[float(sum(int(batch.weights.count_nonzero()) for batch in batches))]])
        number = int(gather_rows(self._accelerator, own).sum())
        if number == 0:
            return None
        for batch in batches:
            if bool(batch.weights.any()):
                for loss in self._algorithm.losses(batch, metrics):
                    self._accelerator.backward(loss / (number * self._algorithm.passes))
        self._sum_gradients()
        norm = float(self._accelerator.clip_grad_norm_(self._parameters, self._settings.max_grad_norm))
        self._prepared.step()
        self._prepared.zero_grad()
        if not self._prepared.step_was_skipped:  # fp16: a gradient overflowed, and the scale is lowered
            if self._ema is not None:
                self._ema.update(self.global_step)
            self.global_step += 1
        return norm

    def _sum_gradients(self) -> None:
        """Sum over processes; one that had nothing to learn from contributes zeros."""
        if self._accelerator.num_processes == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        summed = self._accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), reduction="sum")
        parts = summed.split([parameter.numel() for parameter in self._parameters])
        for parameter, grad in zip(self._parameters, parts, strict=True):
            parameter.grad = grad.view_as(parameter)
