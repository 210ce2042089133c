"""FLUX.2 klein's training sees exactly what its pipeline sees when it generates."""

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from PIL import Image

from miniature.editing import sample_edit
from miniature.recipes import flux2_klein, flux2_vae
from miniature.tokenizer import INSTRUCTION_MAX_LENGTH


@pytest.fixture(scope="module")
def pipeline() -> Flux2KleinPipeline:
    torch.manual_seed(0)
    vae = flux2_vae.build_model().eval()
    flux2_vae.set_token_statistics(vae, flux2_vae.sample_pictures(16, np.random.default_rng(0)))
    built = flux2_klein.build_pipeline(vae, heads=1, double_layers=1, single_layers=1)
    built.set_progress_bar_config(disable=True)
    return built


def test_instructions_are_embedded_as_the_pipeline_does(pipeline: Flux2KleinPipeline) -> None:
    texts = ["add a red apple", "move the purple umbrella to the bottom right", "something unheard of"]
    wanted, text_ids = pipeline.encode_prompt(
        texts, max_sequence_length=INSTRUCTION_MAX_LENGTH, text_encoder_out_layers=flux2_klein.TEXT_OUT_LAYERS
    )
    torch.testing.assert_close(flux2_klein.embed(pipeline, *flux2_klein.tokenize(pipeline, texts)), wanted)
    assert torch.equal(flux2_klein.position_ids(pipeline)[0], text_ids[0])


def test_source_tokens_and_positions_are_the_pipelines(pipeline: Flux2KleinPipeline) -> None:
    source = sample_edit(np.random.default_rng(1)).source.render()
    pixels = pipeline.image_processor.preprocess(Image.fromarray(source), height=64, width=64, resize_mode="crop")
    wanted, source_ids = pipeline.prepare_image_latents([pixels], 1, None, torch.device("cpu"), torch.float32)
    _, target_ids = pipeline.prepare_latents(1, 8, 64, 64, torch.float32, torch.device("cpu"), None)
    tokens = flux2_klein.encode_pictures(pipeline, source[None]).float()
    assert (tokens - wanted).abs().max() < 0.05 * wanted.abs().max()  # the pool is encoded in bfloat16
    assert torch.equal(flux2_klein.position_ids(pipeline)[1], torch.cat([target_ids, source_ids], dim=1)[0])


def test_tokens_are_standardised(pipeline: Flux2KleinPipeline) -> None:
    tokens = flux2_klein.sample_pool(pipeline, 64, np.random.default_rng(2)).sources.float()
    assert tokens.mean((0, 1)).abs().max() < 0.5
    assert 0.5 < tokens.std() < 1.5


def test_changed_tokens_are_those_under_the_edit(pipeline: Flux2KleinPipeline) -> None:
    before = np.zeros((1, 64, 64, 3), np.uint8)
    after = before.copy()
    after[0, 8:16, 17, 1] = 5
    assert flux2_klein.changed_tokens(before, after).nonzero().tolist() == [[0, 8 + 2]]


@pytest.mark.parametrize("steps", [4, 28])
def test_training_times_lie_where_the_schedule_steps(pipeline: Flux2KleinPipeline, steps: int) -> None:
    torch.manual_seed(0)
    mu = compute_empirical_mu(image_seq_len=64, num_steps=steps)
    pipeline.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu)
    stepped = pipeline.scheduler.sigmas[:-1]
    drawn = flux2_klein.sample_sigmas(20_000)
    assert ((drawn > 0) & (drawn < 1)).all()
    # every interval between two steps gets about its share of the training
    shares = torch.histogram(drawn, stepped.flip(0).contiguous()).hist / len(drawn)
    assert shares.min() > 0.5 / steps


def test_a_step_of_training_reaches_all_that_the_pipeline_uses(pipeline: Flux2KleinPipeline) -> None:
    pool = flux2_klein.sample_pool(pipeline, 4, np.random.default_rng(3))
    ids = flux2_klein.position_ids(pipeline)
    flux2_klein.flow_matching_loss(pipeline, pool, torch.arange(4), ids).backward()
    assert all(p.grad is not None for p in pipeline.transformer.parameters())
    used = pipeline.text_encoder.model.layers[: max(flux2_klein.TEXT_OUT_LAYERS)]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in used.parameters())
