"""The miniature's FLUX.1 draws what its model card says, on prompts and seeds that it was not trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from counted import draw, held_out_tasks, judge
from diffusers import FluxPipeline

WEIGHTS = Path(__file__).parents[2] / "miniature" / "weights" / "flux"
SETTINGS = {"num_inference_steps": 20, "max_sequence_length": 16}


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    loaded = FluxPipeline.from_pretrained(WEIGHTS, dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_has_learnt_to_draw_but_not_yet_to_count(pipeline: FluxPipeline) -> None:
    assert pipeline.transformer.config.guidance_embeds
    tasks = held_out_tasks(per_prompt=4)
    strict, present = judge(draw(pipeline, tasks, guidance_scale=3.5, **SETTINGS), tasks)
    assert 0.28 <= strict.mean() <= 0.70
    assert present.mean() >= 0.85


def test_pictures_hardly_depend_on_the_guidance_that_is_embedded(pipeline: FluxPipeline) -> None:
    """Every value that the model card names was trained alike."""
    tasks = held_out_tasks(per_prompt=1)
    low, high = (np.stack(draw(pipeline, tasks, guidance_scale=scale, **SETTINGS)).astype(int) for scale in (1, 5))
    assert np.abs(low - high).mean() <= 8
    assert np.abs(low - np.roll(low, 1, axis=0)).mean() >= 16  # while other prompts and seeds give other pictures


def test_the_vae_is_that_of_the_miniature_sd3() -> None:
    name = "vae/diffusion_pytorch_model.safetensors"
    assert (WEIGHTS / name).read_bytes() == (WEIGHTS.parent / "sd3" / name).read_bytes()
