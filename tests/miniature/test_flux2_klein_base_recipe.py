"""The base sibling's training: pictures from captions beside the edits, and texts dropped for guidance."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline

from miniature.recipes import flux2_klein, flux2_klein_base, flux2_vae


@pytest.fixture(scope="module")
def pipeline() -> Flux2KleinPipeline:
    torch.manual_seed(0)
    vae = flux2_vae.build_model().eval()
    flux2_vae.set_token_statistics(vae, flux2_vae.sample_pictures(16, np.random.default_rng(0)))
    return flux2_klein.build_pipeline(vae, heads=1, double_layers=1, single_layers=1)


def test_pictures_without_a_source_have_the_pipelines_positions(pipeline: Flux2KleinPipeline) -> None:
    _, wanted = pipeline.prepare_latents(1, 8, 64, 64, torch.float32, torch.device("cpu"), None)
    assert torch.equal(flux2_klein.position_ids(pipeline, num_sources=0)[1], wanted[0])


def test_all_tokens_of_a_picture_weigh_the_same(pipeline: Flux2KleinPipeline) -> None:
    """So that what is learnt is the pictures' own distribution."""
    pool = flux2_klein_base.sample_caption_pool(pipeline, 70, np.random.default_rng(0))
    assert pool.sources is None
    assert pool.targets.shape == (70, 64, 32)
    assert pool.input_ids.shape == (70, 24)
    assert pool.weights.unique().tolist() == [1.0]
    assert flux2_klein.sample_pool(pipeline, 10, np.random.default_rng(0)).weights.unique().tolist() == [1.0, 6.0]


def test_dropped_captions_are_the_empty_prompt(pipeline: Flux2KleinPipeline) -> None:
    pool = flux2_klein_base.sample_caption_pool(pipeline, 4, np.random.default_rng(1))
    ids = flux2_klein.position_ids(pipeline, num_sources=0)
    blank_ids, blank_mask = flux2_klein.tokenize(pipeline, [""] * 4)
    blank = replace(pool, input_ids=blank_ids, attention_mask=blank_mask)

    def loss(of: flux2_klein.Pool, drop: float) -> float:
        torch.manual_seed(2)
        return flux2_klein.flow_matching_loss(pipeline, of, torch.arange(4), ids, drop).item()

    assert loss(pool, 1.0) == loss(blank, 0.0)
    assert loss(pool, 0.0) != loss(blank, 0.0)
