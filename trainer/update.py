"""An optimizer step: losses of all micro-batches, one step, its average.

A step is the mean over all samples of all processes that have a weight: the numbers do not depend on how samples are
spread.
"""

from collections.abc import Sequence

import numpy as np
from accelerate import Accelerator

from trainer.algorithms.algorithm import Algorithm, TrainingBatch
from trainer.ema import Ema
from trainer.gathering import gather_rows
from trainer.layout import Layout
from trainer.learning_rate import LearningRateSchedule
from trainer.metric_sums import MetricSums


class PolicyUpdate:
    """Turns batches into optimizer steps.

    Args:
        layout: the trained parameters and their optimizer.
        algorithm: turns batches into losses.
        ema: the parameters' average, or None.
        accelerator: processes.
        schedule: of the learning rate.
    """

    def __init__(
        self,
        layout: Layout,
        algorithm: Algorithm,
        ema: Ema | None,
        accelerator: Accelerator,
        schedule: LearningRateSchedule,
    ) -> None:
        self._layout, self._algorithm, self._ema, self._accelerator = layout, algorithm, ema, accelerator
        self._schedule = schedule
        self.global_step = 0

    def step(self, batches: Sequence[TrainingBatch], metrics: MetricSums) -> float | None:
        """One optimizer step; returns the gradient's norm, or None where no process had anything to learn.

        Args:
            batches: this process's; all processes have equally many.
            metrics: this process's sums are added here.
        """
        own = np.array([[float(sum(int(batch.weights.count_nonzero()) for batch in batches))]])
        number = int(gather_rows(self._accelerator, own).sum())
        if number == 0:
            return None
        self._layout.scale_learning_rate(self._schedule(self.global_step))
        kept = [batch for batch in batches if self._layout.in_step or bool(batch.weights.any())]
        # The processes' gradients are averaged: what is divided by is the mean number of losses of a process.
        share = number * self._algorithm.passes / self._accelerator.num_processes
        left = len(kept) * self._algorithm.passes
        for batch in kept:
            for loss in self._algorithm.losses(batch, metrics):
                left -= 1
                self._layout.backward(loss / share, last=left == 0)
        norm = self._layout.step()
        if not self._layout.step_was_skipped:
            if self._ema is not None:
                self._ema.update(self.global_step)
            self.global_step += 1
        return norm
