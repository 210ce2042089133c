"""Collecting rollouts: sample a micro-batch, hand its images to the reward services at once, sample the next.

Scoring runs in the services while this process goes on sampling; rewards are waited for only when all of an epoch is
sampled.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from assay.rewards import RewardBatch, RewardSet
from generators.embeddings import PromptEmbeddings
from generators.sd3 import SD3Generator
from trainer.config import SamplingConfig
from trainer.prompts import RolloutSample
from trainer.sampling import Trajectory, sample_trajectory


@dataclass(frozen=True)
class MicroBatch:
    """Images sampled together, and trained on together (so that the first ratio is exactly 1)."""

    samples: Sequence[RolloutSample]
    prompts: PromptEmbeddings
    trajectory: Trajectory
    rewards: Future[RewardBatch]


class PromptEncoder:
    """Encodes each prompt once and keeps it in main memory.

    `negative` is the empty prompt that guidance pushes away from.
    """

    def __init__(self, generator: SD3Generator, device: torch.device | str) -> None:
        self._generator, self._device = generator, device
        self._known: dict[str, PromptEmbeddings] = {}
        self.negative = self._encode("").to(device)

    def __call__(self, samples: Sequence[RolloutSample]) -> PromptEmbeddings:
        return PromptEmbeddings.concatenate([self._encode(sample.prompt.prompt) for sample in samples]).to(self._device)

    def _encode(self, prompt: str) -> PromptEmbeddings:
        if prompt not in self._known:
            self._known[prompt] = self._generator.encode_prompts([prompt]).to("cpu")
        return self._known[prompt]


def process_share(
    samples: Sequence[RolloutSample], *, process: int, num_processes: int, optimizer_steps: int
) -> list[list[RolloutSample]]:
    """The samples of one process, one list for each optimizer step of the epoch.

    Each optimizer step takes the next whole groups of the epoch, and each process a whole-group share of those; so the
    samples behind an optimizer step are the same on any number of processes.
    """
    per_step = len(samples) // optimizer_steps
    share = per_step // num_processes
    starts = [step * per_step + process * share for step in range(optimizer_steps)]
    return [list(samples[start : start + share]) for start in starts]


def collect(
    generator: SD3Generator,
    encoder: PromptEncoder,
    rewards: RewardSet,
    samples: Sequence[RolloutSample],
    sampling: SamplingConfig,
) -> Iterator[MicroBatch]:
    """Sample `samples` in micro-batches; each is being scored by the time it is yielded."""
    sigmas = generator.sigmas(sampling.num_steps)
    for start in range(0, len(samples), sampling.micro_batch_size):
        chunk = samples[start : start + sampling.micro_batch_size]
        prompts = encoder(chunk)
        trajectory = sample_trajectory(
            generator,
            prompts,
            encoder.negative,
            sigmas=sigmas,
            guidance_scale=sampling.guidance_scale,
            noise_level=sampling.noise_level,
            generators=[sample.generator() for sample in chunk],
        )
        images = generator.decode(trajectory.states[:, -1])
        future = rewards.submit(
            images, [sample.prompt.prompt for sample in chunk], [sample.prompt.task for sample in chunk]
        )
        yield MicroBatch(chunk, prompts, trajectory, future)
