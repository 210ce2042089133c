"""Show-o's training sees exactly what its sampler sees, and the measures of the recipes measure."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from generators.showo.pipeline import ShowoPipeline
from miniature.phi_tokenizer import SHOWO_MAX_LENGTH, build_phi_tokenizer
from miniature.prompts import counting_metadata, sample_captioned_scene, sample_metadata, scene_for
from miniature.recipes import showo, showo_tokenizer
from miniature.recipes.counted_objects import exactly_counted
from miniature.recipes.patch_heads import PatchHeads

CAPTIONS = ["a photo of two apples", "a photo of a purple umbrella right of a purple umbrella"] * 4


@pytest.fixture(scope="module")
def pipeline() -> ShowoPipeline:
    torch.manual_seed(0)
    vq_model = showo_tokenizer.build_model(bits=6, width=8).eval()
    return showo.build_pipeline(vq_model, heads=1, layers=1)


def test_each_word_of_a_prompt_is_one_token_and_none_is_cut(tmp_path: Path) -> None:
    built = build_phi_tokenizer()
    built.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is type(built)
    assert loaded.bos_token_id == loaded.eos_token_id == len(loaded) - 1
    rng = np.random.default_rng(0)
    for _ in range(300):
        prompt = sample_metadata(rng)["prompt"]
        ids = built(prompt).input_ids
        assert [token.replace("\u0120", "") for token in built.convert_ids_to_tokens(ids)] == prompt.split()
        assert len(ids) + 2 <= SHOWO_MAX_LENGTH
        assert loaded(prompt).input_ids == ids
    assert built.decode(built("seven zebras, 10 hats").input_ids) == "seven zebras, 10 hats"


def test_the_loss_is_of_the_sequences_that_the_sampler_reads(
    pipeline: ShowoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    forward = pipeline.transformer.forward

    def record(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen.append(ids)
        assert mask.shape == (8, 1, 83, 83)
        return forward(ids, mask)

    monkeypatch.setattr(pipeline.transformer, "forward", record)
    codes = torch.randint(64, (8, 64), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    loss = showo.masked_token_loss(pipeline, codes, CAPTIONS)
    assert 0.5 * math.log(64) < loss.item() < 2 * math.log(pipeline.transformer.config.vocab_size)
    (ids,) = seen
    vocabulary, layout = pipeline.transformer.vocabulary, pipeline.layout
    wanted = [{tuple(row) for row in layout.prefixes([text, ""]).tolist()} for text in CAPTIONS]
    assert all(tuple(row) in texts for row, texts in zip(ids[:, :17].tolist(), wanted, strict=True))
    assert (ids[:, 17] == vocabulary.soi).all()
    assert (ids[:, -1] == vocabulary.eoi).all()
    image = ids[:, 18:-1]
    assert (image == vocabulary.mask).any(1).all()
    assert ((image == vocabulary.mask) | (image == codes + vocabulary.image_offset)).all()


def test_a_step_of_training_reaches_the_whole_transformer(pipeline: ShowoPipeline) -> None:
    codes, captions = showo.encode_scenes(pipeline, 8, np.random.default_rng(0))
    assert codes.shape == (8, 64)
    assert len(captions) == 8
    showo.masked_token_loss(pipeline, codes, captions).backward()
    assert not [name for name, parameter in pipeline.transformer.named_parameters() if parameter.grad is None]


def test_what_is_trained_is_what_is_drawn(pipeline: ShowoPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    loaded = ShowoPipeline.from_pretrained(tmp_path)
    assert (loaded.config.num_inference_steps, loaded.config.guidance_scale) == (12, 1.75)
    loaded.set_progress_bar_config(disable=True)
    assert loaded("a photo of two apples", num_inference_steps=2).images[0].size == (64, 64)


def test_patches_are_told_what_stands_in_them_and_background_weighs_less() -> None:
    heads = PatchHeads(2, background_weight=0.5)
    with torch.no_grad():
        heads.linear.weight.zero_()
        heads.linear.bias.zero_()
        heads.linear.bias[1] = math.log(7)  # of 7 classes the first of all objects has 7 / 13, the others 1 / 13 each
    patches = torch.zeros(1, 3, 64, dtype=torch.int64)
    patches[0, 0, :2] = 1
    by_class = (2 * math.log(13 / 7) + 62 * 0.5 * math.log(13)) / (2 + 62 * 0.5)
    found = heads.loss(torch.zeros(1, 64, 2), patches)
    assert found.item() == pytest.approx((by_class + math.log(11) + math.log(2)) / 3, rel=1e-5)


def test_a_step_of_training_reaches_encoder_and_decoder() -> None:
    """By all four roads: after the numbers have become signs, too."""
    rng = np.random.default_rng(0)
    scenes = [sample_captioned_scene(rng).scene for _ in range(2)]
    for share in (0.0, 0.9):
        model = showo_tokenizer.build_model(bits=6, width=8)
        heads = PatchHeads(6)
        loss, error = showo_tokenizer.loss_of(model, heads, scenes, share)
        loss.backward()
        assert error.item() > 0
        assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert model.encoder.conv_in.weight.grad.abs().max() > 0
        assert heads.linear.weight.grad is not None


def test_exact_scenes_are_counted_exactly_and_wrong_ones_are_not() -> None:
    rng = np.random.default_rng(2 * 10**9)
    tasks = [counting_metadata(name, count) for name in ("apple", "kite") for count in (1, 2, 3, 4)] * 2
    pictures = [scene_for(task, rng).render() for task in tasks]
    assert exactly_counted(pictures, tasks).mean() >= 0.9
    assert not exactly_counted(pictures, tasks[1:] + tasks[:1]).any()


def test_held_out_quality_of_a_picture_tokenizer() -> None:
    torch.manual_seed(0)
    model = showo_tokenizer.build_model(bits=6, width=8).eval()
    quality = showo_tokenizer.held_out_quality(model, 16)
    assert quality["exact_before"] >= 0.85
    assert quality["exact_after"] == 0  # it was never trained
    assert 0 < quality["codes_used"] <= 1
    rng = np.random.default_rng(showo_tokenizer.HELD_OUT_SEED)
    assert len(sample_captioned_scene(rng).scene.objects) >= 1
