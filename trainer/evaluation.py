"""Held-out evaluation: the same (prompt, seed) pairs every time, the deterministic sampler, scored by the services."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from tqdm import tqdm

from assay.rewards import RewardSet
from generators.sd3 import SD3Generator
from trainer.config import EvaluationConfig
from trainer.prompts import RolloutSample
from trainer.rollout import PromptEncoder
from trainer.sampling import sample_trajectory


@dataclass(frozen=True)
class EvaluatedImage:
    """One scored image; `components` are the services' named numbers, NaN where scoring failed."""

    index: int
    prompt: str
    count: int
    total: float
    components: dict[str, float]
    image: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Evaluation:
    """All images of one evaluation, in order of their index."""

    epoch: int
    images: Sequence[EvaluatedImage]

    def mean(self, component: str) -> float:
        """Mean over the images that have a score; NaN without any."""
        return _mean([image.components.get(component, float("nan")) for image in self.images])

    @property
    def total(self) -> float:
        return _mean([image.total for image in self.images])

    @property
    def unscored(self) -> int:
        """How many images have no score; they count in no mean."""
        return sum(not np.isfinite(image.total) for image in self.images)

    def summary(self, accuracy: str) -> dict[str, Any]:
        """The numbers that people look at, as JSON."""
        return {
            "epoch": self.epoch,
            "images": len(self.images),
            "unscored": self.unscored,
            "accuracy": self.mean(accuracy),
            "accuracy_by_count": self.by_count(accuracy),
            "reward": self.total,
        }

    def by_count(self, component: str) -> dict[int, float]:
        """Mean per wanted number of objects."""
        groups: dict[int, list[float]] = defaultdict(list)
        for image in self.images:
            groups[image.count].append(image.components.get(component, float("nan")))
        return {count: _mean(values) for count, values in sorted(groups.items())}


def evaluate(
    generator: SD3Generator,
    encoder: PromptEncoder,
    rewards: RewardSet,
    samples: Sequence[RolloutSample],
    config: EvaluationConfig,
    accelerator: Accelerator,
    epoch: int,
) -> Evaluation:
    """Sample and score the held-out pairs, each process its share. Pictures of the first `gallery_prompts` are kept."""
    mine = list(range(accelerator.process_index, len(samples), accelerator.num_processes))
    pending = []
    starts = range(0, len(mine), config.batch_size)
    for start in tqdm(starts, desc=f"evaluation after {epoch} epochs", disable=not accelerator.is_main_process):
        indices = mine[start : start + config.batch_size]
        chunk = [samples[index] for index in indices]
        images = _sample(generator, encoder, chunk, config)
        future = rewards.submit(
            images, [s.prompt.prompt for s in chunk], [s.prompt.task for s in chunk], priority="evaluation"
        )
        pending.append((indices, chunk, images, future))
    found: list[EvaluatedImage] = []
    for indices, chunk, images, future in pending:
        scores = future.result()
        for row, index in enumerate(indices):
            found.append(
                EvaluatedImage(
                    index=index,
                    prompt=chunk[row].prompt.prompt,
                    count=sum(clause.count for clause in chunk[row].prompt.task.include),
                    total=float(scores.totals[row]),
                    components={name: float(values[row]) for name, values in scores.components.items()},
                    image=images[row] if index < config.gallery_prompts else None,
                )
            )
    everyone = gather_object(found) if accelerator.num_processes > 1 else found
    return Evaluation(epoch, sorted(everyone, key=lambda image: image.index))


@torch.no_grad()
def _sample(
    generator: SD3Generator, encoder: PromptEncoder, chunk: Sequence[RolloutSample], config: EvaluationConfig
) -> list[NDArray[np.uint8]]:
    trajectory = sample_trajectory(
        generator,
        encoder(chunk),
        encoder.negative,
        sigmas=generator.sigmas(config.num_steps),
        guidance_scale=config.guidance_scale,
        noise_level=0.0,
        generators=[sample.generator() for sample in chunk],
    )
    return generator.decode(trajectory.states[:, -1])


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
