"""From a name to a generator, and what is refused on the way."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from euler import noise, sample
from PIL import Image

from assay.errors import ConfigError
from generators.flux import FluxGenerator
from generators.flux2_klein_trainable import Flux2KleinTrainable
from generators.loading import load_trainable
from generators.sd3 import SD3Generator
from generators.trainable import TrainableGenerator

SIZE = {"height": 64, "width": 48, "max_sequence_length": 16}


def test_the_class_follows_the_model(generator: TrainableGenerator, name: str) -> None:
    assert type(generator) is {"sd3": SD3Generator, "flux": FluxGenerator, "klein": Flux2KleinTrainable}[name]
    assert generator.embeds_guidance == (name == "flux")
    assert generator.latent_shape == {"sd3": (4, 8, 6), "flux": (4 * 3, 16), "klein": (8 * 6, 8)}[name]


def test_sharded_weights_load(generator: TrainableGenerator, folder: Path, tmp_path: Path) -> None:
    DiffusionPipeline.from_pretrained(folder).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert (tmp_path / "sharded/transformer/diffusion_pytorch_model.safetensors.index.json").exists()
    sharded = load_trainable(str(tmp_path / "sharded"), **SIZE)
    latents, prompts = noise(generator, 1), generator.encode_prompts(["two cats"])
    pictures = [sample(own, latents, prompts, 2, guidance_scale=2.0) for own in (generator, sharded)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


@pytest.mark.parametrize("side", ["height", "width"])
def test_sizes_that_do_not_fit_are_refused(folder: Path, name: str, side: str) -> None:
    unit = 8 if name == "klein" else 16
    with pytest.raises(ConfigError, match=f"model.{side} is 60; it must be a multiple of {unit}"):
        load_trainable(str(folder), **{**SIZE, side: 60})


def test_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"holds a folder without model_index\.json; allowed: StableDiffusion3Pipeline"
    ):
        load_trainable(str(tmp_path), **SIZE)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "PixArtSigmaPipeline"}))
    with pytest.raises(ConfigError, match=r"holds a PixArtSigmaPipeline; allowed: .*FluxPipeline, Flux2KleinPipeline"):
        load_trainable(str(tmp_path), **SIZE)


def test_names_that_the_hub_does_not_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"model = 'nobody/nothing': no such folder, and it cannot be had from"):
        load_trainable("nobody/nothing", **SIZE)


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline", "vae": ["diffusers", "X"]}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_trainable(str(tmp_path), **SIZE)


def test_other_schedulers_are_refused(generator: TrainableGenerator) -> None:
    generator.pipeline.scheduler = DDIMScheduler()
    with pytest.raises(ConfigError, match="scheduler is a DDIMScheduler; allowed: a FlowMatchEulerDiscreteScheduler"):
        type(generator)(generator.pipeline, **SIZE)


def test_images_of_another_size_or_type_are_refused(generator: TrainableGenerator) -> None:
    fitting = np.zeros((64, 48, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"images\[1\] is uint8 \(48, 64, 3\); allowed: uint8 \(64, 48, 3\)"):
        generator.encode_images([fitting, fitting.transpose(1, 0, 2)])
    with pytest.raises(ConfigError, match=r"images\[0\] is float32"):
        generator.encode_images([fitting.astype(np.float32)])


@pytest.mark.parametrize("other", ["sd3", "flux"])
def test_references_for_models_that_take_none_are_refused(folders: dict[str, Path], other: str) -> None:
    generator = load_trainable(str(folders[other]), **SIZE)
    with pytest.raises(ConfigError, match=r"references were given, but a .*Pipeline takes none"):
        generator.encode_prompts(["a"], [[Image.new("RGB", (64, 64))]])
    assert generator.encode_prompts(["a"], [[]]).references is None


def test_references_that_do_not_fit_are_refused(folders: dict[str, Path]) -> None:
    generator = load_trainable(str(folders["klein"]), **SIZE)
    small, wide, high = (Image.new("RGB", size) for size in ((32, 64), (128, 64), (64, 128)))
    with pytest.raises(ConfigError, match=r"a reference image does not fit: .*64"):
        generator.encode_prompts(["a"], [[small]])
    with pytest.raises(ConfigError, match="1 lists of references for 2 prompts"):
        generator.encode_prompts(["a", "b"], [[wide]])
    with pytest.raises(ConfigError, match="references of 0 and 128 tokens cannot share a batch"):
        generator.encode_prompts(["a", "b"], [[wide], []])
    with pytest.raises(ConfigError, match="different sizes cannot share a batch"):
        generator.encode_prompts(["a", "b"], [[wide], [high]])


def test_embedded_guidance_needs_a_number(folders: dict[str, Path]) -> None:
    generator = load_trainable(str(folders["flux"]), **SIZE)
    with pytest.raises(ConfigError, match="guidance_scale is missing"):
        generator.predict_velocity(noise(generator, 1), torch.tensor([0.5]), generator.encode_prompts(["a"]))


def test_without_text_encoders_all_but_encoding_works(generator: TrainableGenerator, tmp_path: Path) -> None:
    latents, prompts = noise(generator, 1), generator.encode_prompts(["two cats"])
    before = sample(generator, latents, prompts, 2, guidance_scale=2.0)
    generator.drop_text_encoders()
    assert np.array_equal(sample(generator, latents, prompts, 2, guidance_scale=2.0), before)
    generator.add_lora(2, 2)
    generator.save_lora(tmp_path / "lora")
    with pytest.raises(ConfigError, match="text encoders were dropped"):
        generator.encode_prompts(["two cats"])
