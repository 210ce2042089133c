"""Collecting rollouts: sample a micro-batch, hand its images to the reward services at once, sample the next.

Scoring runs in the services while this process goes on sampling.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from assay.rewards import RewardBatch, RewardSet
from generators.embeddings import PromptEmbeddings
from generators.opened import OpenedPipeline
from trainer.drawing import draw
from trainer.embeddings_cache import PromptEncoder
from trainer.prompts import RolloutSample
from trainer.sampling import SamplingConfig, StepPlan, Trajectory, make_step

#: Decides where noise is added for some samples, and what is kept of their paths.
Planner = Callable[[Sequence[RolloutSample]], StepPlan]


@dataclass(frozen=True)
class Rollout:
    """A micro-batch: images sampled together, and trained on together (so that the first ratio is exactly 1)."""

    samples: Sequence[RolloutSample]
    prompts: PromptEmbeddings
    trajectory: Trajectory
    rewards: "Future[RewardBatch]"


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
    generator: OpenedPipeline,
    encoder: PromptEncoder,
    rewards: RewardSet,
    samples: Sequence[RolloutSample],
    sampling: SamplingConfig,
    planner: Planner,
) -> Iterator[Rollout]:
    """Sample `samples` in micro-batches; each is being scored by the time it is yielded."""
    for start in range(0, len(samples), sampling.micro_batch_size):
        chunk = samples[start : start + sampling.micro_batch_size]
        prompts = encoder([sample.prompt for sample in chunk])
        trajectory = draw(
            generator,
            prompts,
            encoder.negative,
            num_steps=sampling.num_steps,
            guidance_scale=sampling.guidance_scale,
            generators=[sample.generator() for sample in chunk],
            starts=[sample.group_generator() for sample in chunk] if sampling.same_latent else None,
            plan=planner(chunk),
            step=make_step(sampling.solver, sampling.sde_type),
        )
        future = rewards.submit(
            generator.decode(trajectory.clean),
            [sample.prompt.prompt for sample in chunk],
            [sample.prompt.task for sample in chunk],
        )
        yield Rollout(chunk, prompts, trajectory, future)
