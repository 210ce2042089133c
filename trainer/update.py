"""The optimizer steps of an epoch: losses of all micro-batches, gradients summed over processes, one step, its average.

The trained adapter is small, so its gradients are summed over the processes in one message before each step. A step is
the mean over all samples of all processes that have an advantage: the numbers do not depend on how samples are spread.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from trainer.algorithms.flow_grpo import FlowGrpoConfig, FlowGrpoLoss, StepMetrics, trained_steps
from trainer.config import OptimizerConfig
from trainer.ema import Ema
from trainer.gathering import gather_rows
from trainer.prompts import stable_seed
from trainer.rollout import MicroBatch, PromptEncoder


class PolicyUpdate:
    """Owns the optimizer.

    Args:
        algorithm: settings of the loss.
        settings: settings of AdamW.
        parameters: trained parameters by name.
        loss: the loss of a micro-batch.
        encoder: for the embedding of the empty prompt.
        ema: the parameters' average, or None.
        accelerator: processes and mixed precision.
        num_steps: steps of the sampler.
    """

    def __init__(
        self,
        algorithm: FlowGrpoConfig,
        settings: OptimizerConfig,
        parameters: dict[str, torch.nn.Parameter],
        loss: FlowGrpoLoss,
        encoder: PromptEncoder,
        ema: Ema | None,
        accelerator: Accelerator,
        num_steps: int,
    ) -> None:
        self._algorithm, self._settings, self._num_steps = algorithm, settings, num_steps
        self._parameters = list(parameters.values())
        self._loss, self._encoder, self._ema, self._accelerator = loss, encoder, ema, accelerator
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

    def epoch(self, steps: Sequence[Sequence[MicroBatch]], advantages: NDArray[np.float64]) -> dict[str, float]:
        """Take one optimizer step for each list of micro-batches.

        Args:
            steps: this process's micro-batches, a list for each optimizer step.
            advantages: (samples,) of this process, in the same order.

        Returns:
            Metrics over all processes; NaN where no sample had an advantage.
        """
        metrics, grad_norms, offset = [], [], 0
        for step in steps:
            size = sum(len(batch.samples) for batch in step)
            own, offset = advantages[offset : offset + size], offset + size
            found = StepMetrics()
            norm = self._step(step, own, found)
            metrics.append(self._over_processes(found))
            if norm is not None:
                grad_norms.append(norm)
        return {
            **_means(metrics),
            # On-policy, so exactly 0 unless what is scored differs from what was sampled.
            "first_ratio_deviation": metrics[0].ratio_deviation,
            "grad_norm": float(np.mean(grad_norms)) if grad_norms else float("nan"),
            "global_step": self.global_step,
        }

    def _step(
        self, micro_batches: Sequence[MicroBatch], advantages: NDArray[np.float64], metrics: StepMetrics
    ) -> float | None:
        """One optimizer step; returns the gradient's norm, or None where no process had anything to learn."""
        own_number = np.array([[np.count_nonzero(advantages)]], dtype=np.float64)
        number = int(gather_rows(self._accelerator, own_number).sum())
        if number == 0:
            return None
        offset = 0
        for batch in micro_batches:
            own, offset = advantages[offset : offset + len(batch.samples)], offset + len(batch.samples)
            if np.any(own):
                self._backward(batch, own, number, metrics)
        self._sum_gradients()
        norm = float(self._accelerator.clip_grad_norm_(self._parameters, self._settings.max_grad_norm))
        self._prepared.step()
        self._prepared.zero_grad()
        if not self._prepared.step_was_skipped:  # fp16: a gradient overflowed, and the scale is lowered
            if self._ema is not None:
                self._ema.update(self.global_step)
            self.global_step += 1
        return norm

    def _backward(self, batch: MicroBatch, advantages: NDArray[np.float64], number: int, metrics: StepMetrics) -> None:
        seeds = [stable_seed("trained steps", sample.seed) for sample in batch.samples]
        steps = trained_steps(self._algorithm, self._num_steps, seeds)
        weights = torch.as_tensor(advantages, dtype=torch.float32, device=batch.trajectory.states.device)
        losses = self._loss.per_step(batch.trajectory, batch.prompts, self._encoder.negative, weights, steps, metrics)
        for loss in losses:
            self._accelerator.backward(loss / (number * steps.shape[1]))

    def _sum_gradients(self) -> None:
        """Sum over processes; one that had nothing to learn from contributes zeros."""
        if self._accelerator.num_processes == 1:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        summed = self._accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), reduction="sum")
        parts = summed.split([parameter.numel() for parameter in self._parameters])
        for parameter, grad in zip(self._parameters, parts, strict=True):
            parameter.grad = grad.view_as(parameter)

    def _over_processes(self, own: StepMetrics) -> StepMetrics:
        rows = gather_rows(self._accelerator, np.array([[getattr(own, field.name) for field in fields(own)]]))
        summed = StepMetrics(*rows.sum(0).tolist())
        summed.ratio_deviation = float(rows[:, -1].max())
        return summed


def _means(metrics: Sequence[StepMetrics]) -> dict[str, float]:
    number = sum(step.number for step in metrics)

    def mean(name: str) -> float:
        return sum(getattr(step, name) for step in metrics) / number if number else float("nan")

    names = ("loss", "policy_loss", "kl", "approx_kl", "clip_fraction", "ratio")
    return {"ratio_mean" if name == "ratio" else name: mean(name) for name in names}
