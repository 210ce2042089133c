"""Show-o is used like any other model: a folder, a prompt, a seed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_showo import TOKENIZER, build_pipeline, build_transformer, build_vq_model

from assay.errors import ConfigError
from generators.lora import add_lora, save_lora
from generators.showo.assemble import assemble
from generators.showo.picture_codes import decode_pictures
from generators.showo.pipeline import ShowoPipeline
from generators.text_to_image import TextToImage, load_pipeline

PROMPTS = ["a photo of two apples", "a photo of a cup"]


@pytest.fixture(scope="module")
def folder(pipeline: ShowoPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("showo")
    pipeline.save_pretrained(place)
    return place


def generate(pipeline: ShowoPipeline, seeds: list[int], **settings: object) -> list[np.ndarray]:
    return [np.asarray(image) for image in TextToImage(pipeline, settings).generate(PROMPTS[: len(seeds)], seeds)]


def test_a_folder_is_loaded_like_any_other_model(folder: Path, pipeline: ShowoPipeline) -> None:
    loaded = load_pipeline(str(folder), "cpu", torch.float32)
    assert isinstance(loaded, ShowoPipeline)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "ShowoPipeline"
    assert (index["max_sequence_length"], index["num_inference_steps"], index["guidance_scale"]) == (16, 6, 1.5)
    assert loaded.config.num_inference_steps == 6
    for image, wanted in zip(generate(loaded, [0, 1]), generate(pipeline, [0, 1]), strict=True):
        assert image.shape == (16, 16, 3)
        assert np.array_equal(image, wanted)


def test_pixels_survive_the_way_through_floats(pipeline: ShowoPipeline) -> None:
    """What evaluation saves is what the codes decode to, to the last bit."""
    run = pipeline.start(PROMPTS, [torch.Generator("cpu").manual_seed(seed) for seed in (0, 1)])
    for image, wanted in zip(generate(pipeline, [0, 1]), pipeline.decode(run.finish()), strict=True):
        assert np.array_equal(image, wanted)


def test_an_image_depends_on_its_seed_alone(pipeline: ShowoPipeline) -> None:
    first, second = generate(pipeline, [0, 1])
    assert np.array_equal(generate(pipeline, [0])[0], first)
    assert not np.array_equal(generate(pipeline, [5])[0], first)
    assert not np.array_equal(first, second)


def test_pixels_are_rounded_down(pipeline: ShowoPipeline) -> None:
    codes = torch.randint(64, (1, 16), generator=torch.Generator().manual_seed(0))
    decoded = pipeline.vq_model.decode_code(codes)[0].permute(1, 2, 0).numpy()
    wanted = np.floor(np.clip((decoded + 1) / 2, 0, 1) * 255).astype(np.uint8)
    assert np.array_equal(pipeline.decode(codes)[0], wanted)


def test_settings_reach_the_sampler(pipeline: ShowoPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    started = ShowoPipeline.start
    monkeypatch.setattr(
        ShowoPipeline, "start", lambda self, *args, **rest: seen.append((*args, rest)) or started(self, *args, **rest)
    )
    pipeline(PROMPTS[0], num_inference_steps=2, guidance_scale=0.0, temperature=0.5, max_sequence_length=4)
    pipeline(PROMPTS)
    (_, _, asked, rest), (_, generators, own, _) = seen
    assert (asked.num_steps, asked.guidance_scale, asked.temperature) == (2, 0.0, 0.5)
    assert rest["max_sequence_length"] == 4
    assert (own.num_steps, own.guidance_scale, own.temperature) == (6, 1.5, 1.0)
    assert generators[0].initial_seed() != generators[1].initial_seed()


def test_the_published_sizes_come_with_the_published_settings() -> None:
    for tokens, wanted in ((256, (18, 1.75)), (1024, (50, 5.0))):
        transformer = build_transformer()
        transformer.register_to_config(num_vq_tokens=tokens)
        built = ShowoPipeline(transformer, build_vq_model(), TOKENIZER)
        assert (built.config.num_inference_steps, built.config.guidance_scale) == wanted
        assert built.config.max_sequence_length == 128


def test_other_shapes_of_as_many_tokens(pipeline: ShowoPipeline) -> None:
    image = pipeline(PROMPTS[0], generator=torch.Generator().manual_seed(0), height=8, width=32).images[0]
    assert image.size == (32, 8)
    for sides in ({"height": 24}, {"height": 18, "width": 8}, {"height": 0}):
        with pytest.raises(
            ConfigError, match=r"height and width are .*; allowed: multiples of 4 that together make 16"
        ):
            pipeline(PROMPTS[0], **sides)


def test_pictures_become_codes(pipeline: ShowoPipeline) -> None:
    pictures = list(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8))
    codes = pipeline.encode_images(pictures)
    assert codes.shape == (2, 16)
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.equal(codes, pipeline.vq_model.get_code(pixels))
    with pytest.raises(ConfigError, match=r"images\[1\] is float64"):
        pipeline.encode_images([pictures[0], pictures[1] / 255])
    with pytest.raises(ConfigError, match=r"height and width are 32 and 16"):
        pipeline.encode_images([np.zeros((32, 16, 3), np.uint8)])


def test_a_lora_goes_the_way_of_other_models(folder: Path, tmp_path: Path) -> None:
    tuned = build_pipeline()
    parameters = add_lora(tuned.transformer, 2, 64, ["q_proj", "v_proj", "dense"])
    assert len(parameters) == 2 * 3 * 3
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    save_lora(ShowoPipeline, tuned.transformer, tmp_path / "lora")
    loaded = load_pipeline(str(folder), "cpu", torch.float32, str(tmp_path))
    wanted = generate(tuned, [0])[0]
    assert np.array_equal(generate(loaded, [0])[0], wanted)
    loaded.disable_lora()
    assert not np.array_equal(generate(loaded, [0])[0], wanted)


def test_parts_are_put_together(tmp_path: Path) -> None:
    build_transformer().save_pretrained(tmp_path / "a")
    vq_model = build_vq_model()
    vq_model.save_pretrained(tmp_path / "b")
    torch.save(vq_model.state_dict(), tmp_path / "b" / "pytorch_model.bin")
    (tmp_path / "b" / "pytorch_model.safetensors").unlink()  # some repositories have the pickle alone
    TOKENIZER.save_pretrained(tmp_path / "c")
    parts = [str(tmp_path / name) for name in "abc"]
    assemble(tmp_path / "whole", *parts, max_sequence_length=16)
    loaded = load_pipeline(str(tmp_path / "whole"), "cpu", torch.float32)
    assert (loaded.config.num_inference_steps, loaded.config.guidance_scale) == (18, 1.75)
    assert np.array_equal(
        generate(loaded, [0], num_inference_steps=6, guidance_scale=1.5)[0], generate(build_pipeline(), [0])[0]
    )
    assemble(tmp_path / "whole", *parts, max_sequence_length=16)  # again: nothing against it
    with pytest.raises(ConfigError, match=r"whole was made of transformer = '.*/a', not '.*/b': choose another"):
        assemble(tmp_path / "whole", parts[1], *parts[1:], max_sequence_length=16)
    (tmp_path / "whole/sources.json").unlink()
    with pytest.raises(ConfigError, match="whole holds a model, and does not say of what it was made"):
        assemble(tmp_path / "whole", *parts, max_sequence_length=16)
    (tmp_path / "b" / "pytorch_model.bin").unlink()
    with pytest.raises(
        ConfigError, match=r"vq_model = .* holds neither pytorch_model.safetensors nor pytorch_model.bin"
    ):
        assemble(tmp_path / "half", *parts, max_sequence_length=16)
    with pytest.raises(ConfigError, match="'nobody/nothing': no such folder, and it cannot be had"):
        assemble(tmp_path / "none", "nobody/nothing", *parts[1:], max_sequence_length=16)


def test_parts_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    transformer = build_transformer()
    transformer.register_to_config(codebook_size=32)
    with pytest.raises(ConfigError, match="codebook_size of the transformer is 32; allowed: 64"):
        ShowoPipeline(transformer, build_vq_model(), TOKENIZER)
    with pytest.raises(ConfigError, match=r"has no model_index\.json"):
        ShowoPipeline.from_pretrained(folder / "transformer")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"model = .* its tokenizer cannot be loaded"):
        ShowoPipeline.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="output_type is 'pt'; allowed: pil, np"):
        build_pipeline()(PROMPTS[0], output_type="pt")


def test_a_broken_picture_is_not_handed_out() -> None:
    model = build_vq_model()
    with torch.no_grad():
        model.decoder.conv_out.bias.fill_(torch.inf)
    with pytest.raises(ArithmeticError, match="a decoded picture is not finite"):
        decode_pictures(model, torch.zeros(1, 16, dtype=torch.int64))
