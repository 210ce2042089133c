"""Low-rank adapters: they alone train, and what is saved is what diffusers loads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from euler import noise, sample

from assay.errors import ConfigError
from generators.loading import load_trainable
from generators.trainable import TrainableGenerator

SIZE = {"height": 64, "width": 48, "max_sequence_length": 16}


def disturbed(generator: TrainableGenerator, rank: int = 2, alpha: int = 6) -> list[torch.nn.Parameter]:
    parameters = generator.add_lora(rank, alpha)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(std=0.2)
    return parameters


def test_saved_adapters_load_with_plain_diffusers(generator: TrainableGenerator, folder: Path, tmp_path: Path) -> None:
    """On top of the reference: same pictures in training, in a pipeline that loaded the folder, and fused."""
    latents, prompts = noise(generator, 1), generator.encode_prompts(["a photo of two cats"])
    before = sample(generator, latents, prompts, 3, guidance_scale=2.0)
    disturbed(generator)
    trained = sample(generator, latents, prompts, 3, guidance_scale=2.0)
    assert np.abs(trained - before).max() > 10
    with generator.without_adapter():
        assert np.array_equal(sample(generator, latents, prompts, 3, guidance_scale=2.0), before)
    generator.save_lora(tmp_path / "lora")
    assert (tmp_path / "lora" / "pytorch_lora_weights.safetensors").exists()

    plain = load_trainable(str(folder), **SIZE)
    plain.pipeline.load_lora_weights(tmp_path / "lora")
    assert np.abs(sample(plain, latents, prompts, 3, guidance_scale=2.0) - trained).max() <= 1
    fused = load_trainable(str(folder), **SIZE)
    fused.fuse_lora(str(tmp_path))  # a run's folder will do
    assert np.abs(sample(fused, latents, prompts, 3, guidance_scale=2.0) - trained).max() <= 1
    assert not any(parameter.requires_grad for parameter in fused.transformer.parameters())


def test_a_fresh_adapter_changes_nothing_and_alone_has_gradients(generator: TrainableGenerator) -> None:
    assert not any(p.requires_grad for module in generator.pipeline.components.values()
                   if isinstance(module, torch.nn.Module) for p in module.parameters())  # fmt: skip
    latents, prompts = noise(generator, 2), generator.encode_prompts(["a", "two cats"])
    level = torch.tensor([0.9, 0.3])
    before = generator.predict_velocity(latents, level, prompts, 2.0)
    assert before.dtype == torch.float32
    assert not before.requires_grad
    parameters = generator.add_lora(2, 4)
    after = generator.predict_velocity(latents, level, prompts, 2.0)
    assert torch.equal(before, after)
    after.square().mean().backward()
    assert all(parameter.grad is not None for parameter in parameters)
    assert sum(float(parameter.grad.abs().sum()) for parameter in parameters if parameter.grad is not None) > 0


def test_which_layers_get_one(generator: TrainableGenerator, name: str) -> None:
    generator.add_lora(2, 4)
    layers = {key.split(".lora_A")[0] for key in generator.transformer.state_dict() if "lora_A" in key}
    kinds = {".".join(part for part in layer.split(".") if not part.isdigit()) for layer in layers}
    both_streams = {f"transformer_blocks.attn.{part}" for part in (
        "to_q", "to_k", "to_v", "to_out", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"
    )}  # fmt: skip
    feed_forward = {f"transformer_blocks.{stream}.net{end}" for stream in ("ff", "ff_context") for end in (".proj", "")}
    wanted = {
        "sd3": both_streams,
        "flux": both_streams | feed_forward | {f"single_transformer_blocks.attn.to_{part}" for part in "qkv"},
        "klein": both_streams
        | {"single_transformer_blocks.attn.to_qkv_mlp_proj", "single_transformer_blocks.attn.to_out"},
    }
    assert kinds == wanted[name]


def test_targets_can_be_chosen(generator: TrainableGenerator) -> None:
    generator.add_lora(2, 4, ["attn.to_q"])
    assert all(".attn.to_q." in key for key in generator.transformer.state_dict() if "lora" in key)


def test_an_unknown_target_is_named(generator: TrainableGenerator) -> None:
    with pytest.raises(ConfigError, match=r"lora target 'attn\.to_z' names no linear layer; allowed: .*attn\.to_q"):
        generator.add_lora(2, 4, ["attn.to_q", "attn.to_z"])


def test_a_lora_of_another_model_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    flux = load_trainable(str(folders["flux"]), **SIZE)
    disturbed(flux)
    flux.save_lora(tmp_path / "lora")
    klein = load_trainable(str(folders["klein"]), **SIZE)
    with pytest.raises(ConfigError, match=r"does not fit model = 'Flux2KleinPipeline': .* belong to no layer"):
        klein.fuse_lora(str(tmp_path / "lora"))
    with pytest.raises(ConfigError, match="holds no LoRA"):
        klein.fuse_lora(str(folders["flux"]))


def test_half_precision_weights_with_a_full_precision_adapter(folder: Path, tmp_path: Path) -> None:
    exact = load_trainable(str(folder), **SIZE)
    half = load_trainable(str(folder), **SIZE, weights_dtype=torch.bfloat16, encoder_dtype=torch.bfloat16)
    latents, level = noise(exact, 2), torch.tensor([0.9, 0.3])
    parameters = [disturbed(generator) for generator in (exact, half)]
    assert {p.dtype for p in half.transformer.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in parameters[1]} == {torch.float32}
    assert next(half.pipeline.vae.parameters()).dtype == torch.float32
    velocities = []
    for generator in (exact, half):
        prompts = generator.encode_prompts(["a photo of two cats"] * 2)
        assert prompts.tokens.dtype == torch.float32
        velocities.append(generator.predict_velocity(latents, level, prompts, 2.0))
        velocities[-1].square().mean().backward()
    assert velocities[1].dtype == torch.float32
    assert (velocities[1] - velocities[0]).norm() < 0.06 * velocities[0].norm()
    gradients = [torch.cat([p.grad.flatten() for p in own if p.grad is not None]) for own in parameters]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98
    half.save_lora(tmp_path / "lora")
    exact.transformer.delete_adapters("default")
    exact.fuse_lora(str(tmp_path / "lora"))


def test_autocast_computes_in_half_precision(folder: Path) -> None:
    exact = load_trainable(str(folder), **SIZE)
    cast = load_trainable(str(folder), **SIZE, autocast_dtype=torch.bfloat16)
    latents, level, prompts = noise(exact, 2), torch.tensor([0.9, 0.3]), exact.encode_prompts(["a", "two cats"])
    velocities = [generator.predict_velocity(latents, level, prompts, 2.0) for generator in (exact, cast)]
    assert not torch.equal(*velocities)
    assert velocities[1].dtype == torch.float32
    assert (velocities[1] - velocities[0]).norm() < 0.06 * velocities[0].norm()


def test_gradient_checkpointing_gives_the_same_gradients(generator: TrainableGenerator) -> None:
    latents, level, prompts = noise(generator, 2), torch.tensor([0.9, 0.3]), generator.encode_prompts(["a", "two cats"])
    parameters = disturbed(generator)
    gradients = []
    for _ in range(2):
        generator.predict_velocity(latents, level, prompts, 2.0).square().mean().backward()
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])
        generator.transformer.zero_grad()
        generator.enable_gradient_checkpointing()
    assert len(gradients[0]) == len(parameters)
    torch.testing.assert_close(gradients[1], gradients[0])
