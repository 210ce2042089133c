"""What a micro-batch of rollouts holds."""

from pathlib import Path

import pytest
import torch
from redness import Redness

from assay.rewards import RewardConfig, RewardSet
from assay.testing import serve_in_background
from generators.sd3 import SD3Generator
from trainer.embeddings_cache import PromptEncoder
from trainer.prompts import draw_epoch, read_prompts
from trainer.rollout import collect
from trainer.sampling import SamplingConfig, StepPlan

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("same_latent", [False, True])
def test_a_group_starts_from_one_noise_if_so_asked_and_differs_all_the_same(
    tiny_generator: SD3Generator, same_latent: bool
) -> None:
    prompts = read_prompts(ROOT / "configs/train/prompts/miniature_counting.jsonl")
    samples = draw_epoch(prompts, epoch=1, num_groups=2, group_size=3, seed=0)
    # Micro-batches of two: the second holds samples of both groups.
    sampling = SamplingConfig(num_steps=3, guidance_scale=1, micro_batch_size=2, same_latent=same_latent)
    noise_levels = torch.tensor([[0.7, 0, 0]] * 2)
    with serve_in_background([Redness()]) as server:
        config = RewardConfig(name="red", scorer="redness", targets=[server.target])
        with RewardSet([config], deadline_s=30) as rewards:
            rollouts = list(
                collect(
                    tiny_generator,
                    PromptEncoder(tiny_generator, "cpu"),
                    rewards,
                    samples,
                    sampling,
                    lambda chunk: StepPlan(noise_levels, torch.zeros(2, 1, dtype=torch.long)),
                )
            )
            for rollout in rollouts:
                rollout.rewards.result()
    starts = torch.cat([rollout.trajectory.states[:, 0] for rollout in rollouts])
    ends = torch.cat([rollout.trajectory.clean for rollout in rollouts])
    equal = [[torch.equal(one, other) for other in starts] for one in starts]
    groups = [[(one == other) or (same_latent and one // 3 == other // 3) for other in range(6)] for one in range(6)]
    assert equal == groups
    assert not any(torch.allclose(ends[one], ends[other], atol=1e-2) for one in range(6) for other in range(one))
