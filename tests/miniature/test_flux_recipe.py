"""FLUX.1's training sees exactly what its pipeline sees when it generates."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline
from transformers import AutoTokenizer

from miniature.prompts import sample_metadata
from miniature.recipes import flux
from miniature.tokenizer import MAX_LENGTH, build_t5_tokenizer

VAE = Path(__file__).parents[2] / "miniature/weights/sd3/vae"


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(VAE, torch_dtype=torch.float32)
    built = flux.build_pipeline(vae, heads=1, double_layers=1, single_layers=1)
    built.set_progress_bar_config(disable=True)
    return built


def test_each_word_of_a_prompt_is_one_t5_token(tmp_path: Path) -> None:
    built = build_t5_tokenizer()
    built.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        prompt = sample_metadata(rng)["prompt"]
        ids = built(prompt).input_ids
        assert built.convert_ids_to_tokens(ids) == [*(f"\u2581{word}" for word in prompt.split()), "</s>"]
        assert len(ids) <= MAX_LENGTH
        assert loaded(prompt).input_ids == ids
    assert built.unk_token_id not in built("seven zebras, 10 hats").input_ids  # other words are spelt


def test_equal_captions_are_encoded_once_and_land_in_their_rows(pipeline: FluxPipeline) -> None:
    captions = ["a photo of two apples", "", "a photo of one car", "a photo of two apples"]
    tokens, pooled, ids = flux.encode_captions(pipeline, captions)
    wanted, wanted_pooled, wanted_ids = pipeline.encode_prompt(captions, max_sequence_length=MAX_LENGTH)
    torch.testing.assert_close(tokens, wanted)
    torch.testing.assert_close(pooled, wanted_pooled)
    assert torch.equal(ids, wanted_ids)
    assert (tokens[0] - tokens[2]).abs().max() > 0.01


def test_the_loss_is_of_the_inputs_that_the_pipeline_gives(
    pipeline: FluxPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings, ids and shapes are those of the pipeline's own call, noise levels and guidance in its units."""
    seen: list[dict] = []

    class Stop(Exception):
        pass

    def record(_: object, **inputs: object) -> None:
        seen.append(inputs)
        raise Stop

    clean = flux.pack(torch.randn(2, 16, 8, 8))
    monkeypatch.setattr(type(pipeline.transformer), "forward", record)
    with pytest.raises(Stop):
        flux.flow_matching_loss(pipeline, clean, ["a photo of two apples"] * 2)
    with pytest.raises(Stop):
        pipeline(["a photo of two apples"] * 2, height=64, width=64, max_sequence_length=MAX_LENGTH, guidance_scale=3.5)
    trained, called = seen
    assert trained["hidden_states"].shape == called["hidden_states"].shape == (2, 16, 64)
    assert trained["guidance"].shape == called["guidance"].shape
    assert ((trained["guidance"] >= 1) & (trained["guidance"] <= 5)).all()
    assert called["timestep"].tolist() == [1, 1]  # noise levels from 0 to 1, not steps from 0 to 1000
    assert ((trained["timestep"] > 0) & (trained["timestep"] < 1)).all()
    for name in ("txt_ids", "img_ids", "encoder_hidden_states", "pooled_projections"):
        torch.testing.assert_close(trained[name], called[name])


def test_training_times_lie_where_the_schedule_steps(pipeline: FluxPipeline) -> None:
    torch.manual_seed(0)
    pipeline(["a"], height=64, width=64, num_inference_steps=20, max_sequence_length=MAX_LENGTH, output_type="latent")
    stepped = pipeline.scheduler.sigmas[:-1]
    drawn = flux.sample_sigmas(20_000)
    assert ((drawn > 0) & (drawn < 1)).all()
    shares = torch.histogram(drawn, stepped.flip(0).contiguous()).hist / len(drawn)
    assert shares.min() > 0.5 / 20


def test_a_step_of_training_reaches_all_that_the_pipeline_uses(pipeline: FluxPipeline) -> None:
    vae = pipeline.vae
    latents, captions = flux.encode_scenes(vae, 4, np.random.default_rng(0))
    flux.flow_matching_loss(pipeline, flux.pack(latents), captions).backward()
    for module in (pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2):
        missing = [name for name, parameter in module.named_parameters() if parameter.grad is None]
        assert not missing
