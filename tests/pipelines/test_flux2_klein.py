"""The FLUX.2 klein generator: the true class in the hub's layout, and images that depend on their own seed alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

from assay.errors import ConfigError
from generators.flux2_klein import Flux2KleinGenerator, is_distilled, load_pipeline, locate_checkpoint, text_layers


@pytest.fixture(scope="module")
def generator(tiny_klein: Path) -> Flux2KleinGenerator:
    return Flux2KleinGenerator(load_pipeline(tiny_klein, "cpu", torch.float32), num_inference_steps=2)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 72, 3), dtype=np.uint8))


def test_layers_of_the_published_text_encoders() -> None:
    """Qwen3-4B and Qwen3-8B have 36 layers; (9, 18, 27) is diffusers' default."""
    assert text_layers(36) == (9, 18, 27)


def test_a_checkpoint_in_shards_and_half_precision_loads_as_the_published_ones(
    generator: Flux2KleinGenerator, tiny_klein: Path, tmp_path: Path
) -> None:
    pipeline = Flux2KleinPipeline.from_pretrained(tiny_klein).to(torch.bfloat16)
    pipeline.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "transformer/diffusion_pytorch_model.safetensors.index.json").exists()
    loaded = load_pipeline(locate_checkpoint(str(tmp_path)), "cpu", torch.bfloat16)
    assert loaded.transformer.dtype == loaded.text_encoder.dtype == loaded.vae.dtype == torch.bfloat16
    (image,) = Flux2KleinGenerator(loaded, num_inference_steps=2).generate(["a"], [picture(0)], [1])
    (exact,) = generator.generate(["a"], [picture(0)], [1])
    assert image.size == exact.size == (72, 64)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(exact)).mean() < 8


def test_an_image_depends_on_its_own_seed_and_prompt_alone(generator: Flux2KleinGenerator) -> None:
    together = generator.generate(["a", "b", "c"], [picture(0)], [5, 6, 7])
    (alone,) = generator.generate(["b"], [picture(0)], [6])
    assert np.abs(np.asarray(together[1]).astype(int) - np.asarray(alone)).max() <= 1
    (other,) = generator.generate(["b"], [picture(0)], [8])
    assert np.abs(np.asarray(other).astype(int) - np.asarray(alone)).max() > 8


def test_seeds_up_to_the_largest_that_units_give(generator: Flux2KleinGenerator) -> None:
    assert len(generator.generate(["a"], [picture(0)], [2**63 - 1])) == 1


def test_sizes_that_do_not_fit_are_refused(tiny_klein: Path) -> None:
    pipeline = load_pipeline(tiny_klein, "cpu", torch.float32)
    with pytest.raises(ConfigError, match="width = 66; allowed: multiples of 4"):
        Flux2KleinGenerator(pipeline, num_inference_steps=1, height=64, width=66)


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a folder without model_index\.json; allowed: a Flux2KleinPipeline"):
        locate_checkpoint(str(tmp_path))


def test_distilled_is_read_from_the_checkpoint(tiny_klein: Path, tmp_path: Path) -> None:
    assert is_distilled(tiny_klein)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "Flux2KleinPipeline"}))
    assert not is_distilled(tmp_path)
