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
from generators.opened import OpenedPipeline
from trainer.config import EvaluationConfig
from trainer.drawing import draw
from trainer.embeddings_cache import PromptEncoder
from trainer.prompts import RolloutSample
from trainer.sampling import make_step


@dataclass(frozen=True)
class EvaluatedImage:
    """One scored image.

    Args:
        index: of the (prompt, seed) pair.
        prompt: what was asked for.
        count: how many objects the task names.
        total: the weighted reward of training; NaN where scoring failed.
        components: the services' named numbers: `NAME` and `NAME/COMPONENT`; NaN where scoring failed.
        image: (height, width, 3), for the gallery's images.
    """

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
    def rewards(self) -> dict[str, float]:
        """Mean of each reward by name, those of training and those that it does not see."""
        names = {name: None for image in self.images for name in image.components if "/" not in name}
        return {name: self.mean(name) for name in names}

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
            "rewards": self.rewards,
        }

    def by_count(self, component: str) -> dict[int, float]:
        """Mean per wanted number of objects."""
        groups: dict[int, list[float]] = defaultdict(list)
        for image in self.images:
            groups[image.count].append(image.components.get(component, float("nan")))
        return {count: _mean(values) for count, values in sorted(groups.items())}


def evaluate(
    generator: OpenedPipeline,
    encoder: PromptEncoder,
    judges: Sequence[RewardSet],
    samples: Sequence[RolloutSample],
    config: EvaluationConfig,
    accelerator: Accelerator,
    epoch: int,
) -> Evaluation:
    """Sample and score the held-out pairs, each process its share. Pictures of the first `gallery_prompts` are kept.

    Args:
        judges: every one scores every image; the first one's totals are the reward.
    """
    mine = list(range(accelerator.process_index, len(samples), accelerator.num_processes))
    pending = []
    starts = range(0, -(-len(samples) // accelerator.num_processes), config.batch_size)
    for start in tqdm(starts, desc=f"evaluation after {epoch} epochs", disable=not accelerator.is_main_process):
        indices = mine[start : start + config.batch_size]
        chunk = [samples[index].prompt for index in indices]
        # In a sharded model every pass takes all processes: one that has nothing left samples for nothing.
        images = _sample(generator, encoder, [samples[index] for index in indices] or samples[:1], config)
        if not indices:
            continue
        prompts, tasks = [prompt.prompt for prompt in chunk], [prompt.task for prompt in chunk]
        futures = [judge.submit(images, prompts, tasks, priority="evaluation") for judge in judges]
        pending.append((indices, images, futures))
    found: list[EvaluatedImage] = []
    for indices, images, futures in pending:
        scores = [future.result() for future in futures]
        for row, index in enumerate(indices):
            prompt = samples[index].prompt
            found.append(
                EvaluatedImage(
                    index=index,
                    prompt=prompt.prompt,
                    count=sum(clause.count for clause in prompt.task.include) if prompt.task else 0,
                    total=float(scores[0].totals[row]),
                    components={name: float(v[row]) for score in scores for name, v in score.components.items()},
                    image=images[row] if index < config.gallery_prompts else None,
                )
            )
    everyone = gather_object(found) if accelerator.num_processes > 1 else found
    return Evaluation(epoch, sorted(everyone, key=lambda image: image.index))


@torch.no_grad()
def _sample(
    generator: OpenedPipeline, encoder: PromptEncoder, chunk: Sequence[RolloutSample], config: EvaluationConfig
) -> list[NDArray[np.uint8]]:
    trajectory = draw(
        generator,
        encoder([sample.prompt for sample in chunk]),
        encoder.negative,
        num_steps=config.num_steps,
        guidance_scale=config.guidance_scale,
        generators=[sample.generator() for sample in chunk],
        step=make_step(config.solver),
    )
    return generator.decode(trajectory.clean)


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
