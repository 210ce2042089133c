"""An adapter's steps give the pipeline's own pictures: same embeddings, schedule, guidance and decoding.

Latents and pictures go through the same modules in the same precision, so that pictures agree to one level of 255 (the
order of a few float32 sums differs).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from euler import noise, pipeline_pixels, sample
from PIL import Image

from generators.loading import load_trainable
from generators.trainable import TrainableGenerator

PROMPTS = ["a photo of three apples", "a photo of two cats"]
STEPS = 5
ONE_LEVEL = 1


def call(generator: TrainableGenerator, name: str, latents: torch.Tensor, **settings: Any) -> np.ndarray:
    """What the pipeline itself makes of the same noise."""
    pipeline = generator.pipeline
    if name == "klein":  # its call takes latents before they are packed
        rows, columns = 64 // 8, 48 // 8
        latents = latents.mT.reshape(len(latents), -1, rows, columns)
        settings["text_encoder_out_layers"] = (1, 2, 3)
    images = pipeline(
        prompt=PROMPTS,
        latents=latents,
        height=64,
        width=48,
        num_inference_steps=STEPS,
        max_sequence_length=16,
        output_type="np",
        **settings,
    ).images
    return pipeline_pixels(images)


def pictures(sizes: list[tuple[int, int]], seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


def test_without_guidance(generator: TrainableGenerator, name: str) -> None:
    latents = noise(generator, 2)
    ours = sample(generator, latents, generator.encode_prompts(PROMPTS), STEPS)
    theirs = call(generator, name, latents, guidance_scale=1.0)
    assert np.abs(ours - theirs).max() <= ONE_LEVEL
    swapped = sample(generator, latents, generator.encode_prompts(PROMPTS[::-1]), STEPS)
    assert np.abs(swapped - theirs).max() > 10 * ONE_LEVEL  # prompts do matter


def test_with_guidance(generator: TrainableGenerator, name: str) -> None:
    latents = noise(generator, 2)
    negative = None if generator.embeds_guidance else generator.encode_prompts([""])
    prompts = generator.encode_prompts(PROMPTS)
    ours = sample(generator, latents, prompts, STEPS, guidance_scale=3.5, negative=negative)
    assert np.abs(ours - call(generator, name, latents, guidance_scale=3.5)).max() <= ONE_LEVEL
    assert np.abs(ours - call(generator, name, latents, guidance_scale=1.0)).max() > 3 * ONE_LEVEL


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("sizes", [[(64, 64)], [(72, 64), (64, 131)]], ids=["one reference", "two, to be cropped"])
def test_with_references(folders: dict[str, Path], sizes: list[tuple[int, int]], guidance_scale: float) -> None:
    generator = load_trainable(str(folders["klein"]), height=64, width=48, max_sequence_length=16)
    references, latents = pictures(sizes), noise(generator, 2)
    negative = generator.encode_prompts([""]) if guidance_scale > 1 else None
    prompts = generator.encode_prompts(PROMPTS, [references] * 2)
    ours = sample(generator, latents, prompts, STEPS, guidance_scale=guidance_scale, negative=negative)
    theirs = call(generator, "klein", latents, guidance_scale=guidance_scale, image=references)
    assert np.abs(ours - theirs).max() <= ONE_LEVEL
    without = sample(
        generator, latents, generator.encode_prompts(PROMPTS), STEPS, guidance_scale=guidance_scale, negative=negative
    )
    assert np.abs(without - theirs).max() > 3 * ONE_LEVEL


@pytest.mark.parametrize("size", [(1500, 900), (64, 131), (72, 64)])
def test_references_are_prepared_as_the_pipeline_does(
    folders: dict[str, Path], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made smaller where they are large, and cropped to whole tokens: the VAE gets the very same pixels."""
    generator = load_trainable(str(folders["klein"]), height=64, width=48, max_sequence_length=16)
    prepared: list[torch.Tensor] = []

    class StopHere(Exception):
        pass

    def record(images: list[torch.Tensor], *_: Any, **__: Any) -> None:
        prepared.extend(images)
        raise StopHere

    monkeypatch.setattr(generator.pipeline, "prepare_image_latents", record)
    references = pictures([size])
    with pytest.raises(StopHere):
        generator.encode_prompts(["a"], [references])
    with pytest.raises(StopHere):
        generator.pipeline(
            image=references, prompt="a", guidance_scale=1.0, max_sequence_length=16, text_encoder_out_layers=(1, 2, 3)
        )
    ours, theirs = prepared
    assert torch.equal(ours, theirs)
    assert ours.shape[2] * ours.shape[3] <= 1024 * 1024


def test_a_row_does_not_depend_on_its_batch(generator: TrainableGenerator) -> None:
    latents = noise(generator, 3)
    prompts = generator.encode_prompts([*PROMPTS, "a photo of a dog"])
    together = sample(generator, latents, prompts, STEPS, guidance_scale=2.0)
    alone = sample(generator, latents[1:2], generator.encode_prompts(PROMPTS[1:]), STEPS, guidance_scale=2.0)
    assert np.abs(together[1] - alone[0]).max() <= ONE_LEVEL


def test_images_encoded_and_decoded_are_the_vaes_round_trip(generator: TrainableGenerator) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    latents = generator.encode_images(list(images))
    assert latents.shape == (2, *generator.latent_shape)
    assert latents.dtype == torch.float32
    assert torch.equal(latents, generator.encode_images(list(images)))
    vae = generator.pipeline.vae
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    wanted = ((decoded.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(np.stack(generator.decode(latents)) - wanted).max() <= ONE_LEVEL
    assert wanted.std() > 1


def test_references_are_encoded_as_images_are(folders: dict[str, Path]) -> None:
    generator = load_trainable(str(folders["klein"]), height=64, width=64, max_sequence_length=16)
    (picture,) = pictures([(64, 64)])
    references = generator.encode_prompts(["a"], [[picture]]).references
    torch.testing.assert_close(references, generator.encode_images([np.asarray(picture)]))


def test_latents_that_are_not_finite_are_not_decoded(generator: TrainableGenerator) -> None:
    latents = noise(generator, 2)
    latents[1].view(-1)[3] = float("nan")
    with pytest.raises(ArithmeticError, match="not finite"):
        generator.decode(latents)
