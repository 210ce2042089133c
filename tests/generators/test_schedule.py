"""Noise levels: the pipeline's own schedule, and the shift by which training draws them."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from generators.loading import load_trainable
from generators.trainable import TrainableGenerator


@pytest.mark.parametrize("steps", [1, 4, 28])
def test_schedules_run_from_one_to_zero(generator: TrainableGenerator, steps: int) -> None:
    sigmas = generator.sigmas(steps)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == pytest.approx(1)
    assert sigmas[-1] == 0
    assert all(later < earlier for earlier, later in pairwise(sigmas))


def test_training_levels_are_shifted_as_the_schedules_are(generator: TrainableGenerator, name: str) -> None:
    """Fifty steps, since klein's shift depends on their number, and training takes that of fifty."""
    lowest = 1 / 50 if name != "sd3" else generator.pipeline.scheduler.sigma_min
    even = torch.linspace(1, lowest, 50)
    torch.testing.assert_close(generator.shifted(even), torch.tensor(generator.sigmas(50)[:-1]), rtol=1e-5, atol=1e-6)
    inner = generator.shifted(torch.rand(3, 2).clamp(1e-4, 1 - 1e-4))
    assert inner.shape == (3, 2)
    assert bool(((inner > 0) & (inner < 1)).all())


def _middle(folder: Path, height: int, width: int) -> float:
    generator = load_trainable(str(folder), height=height, width=width, max_sequence_length=16)
    return float(generator.shifted(torch.tensor(0.5)))


def test_published_shifts(folders: dict[str, Path]) -> None:
    """At 4,096 tokens, which is 1024 x 1024 at full size; here a token of klein covers 8 pixels, of FLUX.1 16."""
    assert _middle(folders["sd3"], 64, 64) == pytest.approx(0.75)  # 3 u / (1 + 2 u)
    assert _middle(folders["flux"], 1024, 1024) == pytest.approx(math.exp(1.15) / (math.exp(1.15) + 1))
    assert _middle(folders["flux"], 256, 256) == pytest.approx(math.exp(0.5) / (math.exp(0.5) + 1))
    # the line through mu(10 steps) = 8.738e-5 n + 1.8983 and mu(200 steps) = 1.6927e-4 n + 0.4567, at 50 steps
    mu = 2.256244 + (1.149997 - 2.256244) * 40 / 190
    assert _middle(folders["klein"], 512, 512) == pytest.approx(math.exp(mu) / (math.exp(mu) + 1), rel=1e-4)


def test_sd3_with_a_shift_by_size(folders: dict[str, Path]) -> None:
    generator = load_trainable(str(folders["sd3"]), height=64, width=48, max_sequence_length=16)
    generator.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    sigmas = generator.sigmas(4)
    generator.pipeline(
        "a", latents=torch.zeros(1, *generator.latent_shape), num_inference_steps=4, max_sequence_length=16,
        height=64, width=48, output_type="latent",
    )  # fmt: skip
    assert sigmas == generator.pipeline.scheduler.sigmas.tolist()
    mu = 0.5 + (12 - 256) * (1.15 - 0.5) / (4096 - 256)
    assert float(generator.shifted(torch.tensor(0.5))) == pytest.approx(math.exp(mu) / (math.exp(mu) + 1))
