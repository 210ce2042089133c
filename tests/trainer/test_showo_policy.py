"""Show-o opened up for training: it draws what its pipeline draws, and what is saved of it draws that again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay.errors import ConfigError
from generators.loading import load_trainable
from generators.showo.pipeline import ShowoPipeline
from generators.showo.trainable import ShowoGenerator
from generators.text_to_image import load_pipeline
from miniature.phi_tokenizer import SHOWO_MAX_LENGTH
from trainer.drawing import draw

SIZE: dict[str, Any] = {"height": 64, "width": 64, "max_sequence_length": SHOWO_MAX_LENGTH}
PROMPTS = ["a photo of two apples", "a photo of a cup"]


def drawn(model: ShowoGenerator, num_steps: int = 3, guidance_scale: float = 1.5) -> list[np.ndarray]:
    trajectory = draw(
        model,
        model.encode_prompts(PROMPTS),
        model.encode_prompts([""]),
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        generators=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
    )
    return model.decode(trajectory.clean)


def of_pipeline(pipeline: ShowoPipeline, num_steps: int = 3, guidance_scale: float = 1.5) -> list[np.ndarray]:
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    images = pipeline(PROMPTS, generators, num_steps, guidance_scale).images
    return [np.asarray(image) for image in images]


def disturbed(model: ShowoGenerator, whole: bool) -> dict[str, torch.Tensor]:
    """What is trained, by name, moved far enough to draw something else; the model keeps its own values."""
    torch.manual_seed(3)
    model.train_all() if whole else model.add_lora(2, 4)
    trained = {name: value for name, value in model.transformer.named_parameters() if value.requires_grad}
    return {name: value.detach() + 0.3 * torch.randn_like(value) for name, value in trained.items()}


def put(model: ShowoGenerator, values: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.transformer.named_parameters():
            if name in values:
                parameter.copy_(values[name])


@pytest.mark.parametrize("guidance_scale", [0.0, 1.5])
def test_it_draws_what_its_pipeline_draws(tiny_masked: ShowoGenerator, tiny_showo: Path, guidance_scale: float) -> None:
    expected = of_pipeline(ShowoPipeline.from_pretrained(tiny_showo), guidance_scale=guidance_scale)
    assert np.array_equal(drawn(tiny_masked, guidance_scale=guidance_scale), expected)


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_saved_draws_the_policys_own_samples(
    tiny_masked: ShowoGenerator, tiny_showo: Path, tmp_path: Path, whole: bool
) -> None:
    """The given values are saved, not those in place: an average, say."""
    before = drawn(tiny_masked)
    values = disturbed(tiny_masked, whole)
    tiny_masked.save_result(tmp_path / tiny_masked.result, values)
    put(tiny_masked, values)
    if whole:
        loaded: Any = ShowoPipeline.from_pretrained(tmp_path / "model")
    else:
        loaded = load_pipeline(str(tiny_showo), "cpu", torch.float32, str(tmp_path))
    policy = drawn(tiny_masked)
    assert np.array_equal(of_pipeline(loaded), policy)
    assert not np.array_equal(policy, before)


def test_without_its_adapter_it_draws_as_before(tiny_masked: ShowoGenerator) -> None:
    before = drawn(tiny_masked)
    put(tiny_masked, disturbed(tiny_masked, whole=False))
    assert not np.array_equal(drawn(tiny_masked), before)
    with tiny_masked.without_adapter():
        assert np.array_equal(drawn(tiny_masked), before)


def test_a_fused_cold_start_is_what_the_reference_has(
    tiny_masked: ShowoGenerator, tiny_showo: Path, tmp_path: Path
) -> None:
    values = disturbed(tiny_masked, whole=False)
    tiny_masked.save_result(tmp_path / "lora", values)
    put(tiny_masked, values)
    fused = load_trainable(str(tiny_showo), ShowoGenerator, **SIZE)
    fused.fuse_lora(str(tmp_path))
    fused.train_all()
    prompts, codes = fused.encode_prompts(PROMPTS), torch.zeros(2, 64, dtype=torch.int64)
    masked = torch.ones(2, 64, dtype=torch.bool)
    with torch.no_grad():
        one, other = (model.log_probs(prompts, codes, masked) for model in (fused, tiny_masked))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    fused.save_result(tmp_path / "model")  # no trace of the LoRA is left in the names
    ShowoPipeline.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("whole", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients_and_does_not_touch_sampling(
    tiny_masked: ShowoGenerator, whole: bool
) -> None:
    put(tiny_masked, disturbed(tiny_masked, whole))
    prompts = tiny_masked.encode_prompts(PROMPTS)
    codes = torch.randint(0, 64, (2, 64), generator=torch.Generator().manual_seed(0))
    found, calls = [], []
    pictures = drawn(tiny_masked)
    layer = tiny_masked.transformer.showo.model.layers[0]
    layer.input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        calls.clear()
        tiny_masked.log_probs(prompts, codes, codes < 40).sum().backward()
        found.append([own.grad.clone() for own in tiny_masked.transformer.parameters() if own.grad is not None])
        found[-1].append(torch.tensor(float(len(calls))))
        tiny_masked.transformer.zero_grad()
        tiny_masked.enable_gradient_checkpointing()
    assert [own.pop().item() for own in found] == [1, 2]
    torch.testing.assert_close(found[1], found[0])
    assert np.array_equal(drawn(tiny_masked), pictures)


def test_autocast_computes_in_half_precision(tiny_showo: Path, tiny_masked: ShowoGenerator) -> None:
    half = load_trainable(str(tiny_showo), ShowoGenerator, **SIZE, autocast_dtype=torch.bfloat16)
    codes = torch.zeros(2, 64, dtype=torch.int64)
    one, other = (m.log_probs(m.encode_prompts(PROMPTS), codes, codes == 0) for m in (tiny_masked, half))
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, atol=0.1, rtol=0)


def test_pictures_become_codes_and_pictures_again(tiny_masked: ShowoGenerator) -> None:
    image = np.full((64, 64, 3), 90, np.uint8)
    codes = tiny_masked.encode_images([image])
    assert torch.equal(codes, tiny_masked.pipeline.encode_images([image]))
    assert tiny_masked.decode(codes)[0].shape == (64, 64, 3)
    with pytest.raises(ConfigError, match=r"images\[0\] is uint8 \(32, 64, 3\); allowed: uint8 \(64, 64, 3\)"):
        tiny_masked.encode_images([image[:32]])


def test_the_projector_of_clip_features_does_not_train(tiny_masked: ShowoGenerator) -> None:
    transformer = tiny_masked.transformer
    transformer.mm_projector = torch.nn.Linear(4, 4).requires_grad_(False)
    tiny_masked.train_all()
    names = {name for name, own in transformer.named_parameters() if own.requires_grad}
    assert names == {name for name, _ in transformer.named_parameters() if name.startswith("showo.")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_sequence_length": 128}, r"model.max_sequence_length is 128; allowed: 16, the model's own"),
        ({"height": 256, "width": 256}, r"height and width are 256 and 256; allowed: .*such as 64 and 64"),
    ],
)
def test_what_is_not_the_models_is_refused(tiny_showo: Path, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_trainable(str(tiny_showo), ShowoGenerator, **SIZE | settings)


def test_each_kind_of_model_is_refused_by_the_other_kind_of_algorithm(tiny_showo: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a ShowoPipeline; allowed: StableDiffusion3Pipeline, FluxPipeline, F"):
        load_trainable(str(tiny_showo), **SIZE)
    with pytest.raises(ConfigError, match=r"holds a StableDiffusion3Pipeline; allowed: ShowoPipeline$"):
        load_trainable(str(tiny_model), ShowoGenerator, **SIZE)


def test_weights_that_train_are_float32(tiny_showo: Path) -> None:
    half = load_trainable(str(tiny_showo), ShowoGenerator, **SIZE, weights_dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match=r"model.weights_dtype is torch.bfloat16; allowed with model.train_all: fl"):
        half.train_all()
