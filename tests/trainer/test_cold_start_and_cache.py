"""Supervised fine-tuning as a cold start, offline data, and embeddings that are computed once."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from redness import Redness
from safetensors.torch import load_file
from whole_runs import start_run

from assay.errors import ConfigError
from assay.testing import serve_in_background
from generators.sd3 import SD3Generator
from generators.text_to_image import load_pipeline
from miniature.datasets import write_captioned_pictures
from pipelines.model_digest import digest_model
from trainer import embeddings_cache
from trainer.cli import train
from trainer.data_rows import read_picture, read_rows
from trainer.embeddings_cache import PromptEncoder
from trainer.prompts import PromptTask

PROMPTS = Path(__file__).parents[2] / "configs/train/prompts/miniature_counting.jsonl"


@pytest.fixture(scope="module")
def red() -> Iterator[str]:
    with serve_in_background([Redness()]) as running:
        yield running.target


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captioned_pictures(tmp_path_factory.mktemp("pictures"), 10, seed=0)


def _train(folder: Path, weights: Path, algorithm: dict[str, Any], **sections: dict[str, Any]) -> Path:
    assert train(_configure(folder, weights, algorithm, **sections)) == 0
    return folder / "run"


def _configure(folder: Path, weights: Path, algorithm: dict[str, Any], **sections: dict[str, Any]) -> Path:
    config: dict[str, Any] = {
        "model": {"path": str(weights), "height": 64, "width": 64, "max_sequence_length": 0, "lora_rank": 2},
        "algorithm": algorithm,
        "optimizer": {"learning_rate": 0.01},
        "ema": {"enabled": False},
        "run": {"output": str(folder / "run"), "epochs": 2, "trackers": [], "threads": 1},
    }
    for name, values in sections.items():
        config[name] = {**config.get(name, {}), **values} if isinstance(values, dict) else values
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def _sft(data: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "sft",
        "data": str(data),
        "images_per_step": 4,
        "micro_batch_size": 2,
        "optimizer_steps_per_epoch": 3,
        **changes,
    }


def _velocity(generator: SD3Generator) -> torch.Tensor:
    latents = torch.randn(1, *generator.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return generator.predict_velocity(latents, torch.tensor([0.5]), generator.encode_prompts(["two cups"]))


def test_a_fused_cold_start_is_the_reference_of_the_next_run(tmp_path: Path, tiny_model: Path, pictures: Path) -> None:
    run = _train(tmp_path, tiny_model, _sft(pictures))
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    settings = {"height": 64, "width": 64, "max_sequence_length": 0}
    plain = SD3Generator.from_pretrained(str(tiny_model), **settings)
    before = _velocity(plain)
    plain.pipeline.load_lora_weights(str(run / "lora"))
    tuned = _velocity(plain)
    assert (tuned - before).abs().max() > 1e-4
    fused = SD3Generator.from_pretrained(str(tiny_model), **settings)
    fused.fuse_lora(str(run))
    with torch.no_grad():
        for parameter in fused.add_lora(2, 4):
            parameter.normal_()
    assert (_velocity(fused) - tuned).abs().max() > 1e-3
    with fused.without_adapter():
        torch.testing.assert_close(_velocity(fused), tuned, atol=1e-5, rtol=1e-4)


def test_data_is_shown_evenly_and_alike_after_a_resume(tmp_path: Path, tiny_model: Path, pictures: Path) -> None:
    """Two epochs at once, or one and then the other: the same bits."""
    straight = _train(tmp_path / "straight", tiny_model, _sft(pictures))
    _train(tmp_path / "parts", tiny_model, _sft(pictures), run={"epochs": 1})
    parts = _train(tmp_path / "parts", tiny_model, _sft(pictures))
    one, other = (load_file(run / "lora/pytorch_lora_weights.safetensors") for run in (straight, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_prompts_encoded_before_the_run_give_the_same_bits(tmp_path: Path, tiny_model: Path, red: str) -> None:
    sections = {
        "prompts": {"train": str(PROMPTS)},
        "sampling": {
            "num_steps": 3,
            "guidance_scale": 2.0,
            "group_size": 2,
            "groups_per_epoch": 2,
            "micro_batch_size": 4,
        },
        "rewards": [{"name": "red", "scorer": "redness", "targets": [red]}],
    }
    algorithm = {"name": "flow_grpo", "optimizer_steps_per_epoch": 1}
    cache = tmp_path / "embeddings"
    plain = _train(tmp_path / "plain", tiny_model, algorithm, **sections)
    cached = _train(tmp_path / "cached", tiny_model, algorithm, model={"embeddings_cache": str(cache)}, **sections)
    distinct = len({json.loads(line)["prompt"] for line in PROMPTS.read_text().splitlines()})
    assert len(list(cache.glob("*.safetensors"))) == distinct + 1  # and the empty prompt
    one, other = (load_file(run / "lora/pytorch_lora_weights.safetensors") for run in (plain, cached))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_prompts_that_are_not_learnt_from_are_not_encoded(
    tmp_path: Path, tiny_model: Path, pictures: Path, red: str
) -> None:
    cache = tmp_path / "embeddings"
    _train(
        tmp_path,
        tiny_model,
        _sft(pictures),
        model={"embeddings_cache": str(cache)},
        prompts={"train": str(tmp_path / "absent.jsonl")},
        rewards=[{"name": "red", "scorer": "redness", "targets": [red]}],
    )
    captions = {json.loads(line)["prompt"] for line in pictures.read_text().splitlines()}
    assert len(list(cache.glob("*.safetensors"))) == len(captions) + 1  # and the empty prompt


@pytest.mark.parametrize("in_folder", [True, False])
def test_embeddings_are_kept_in_the_encoders_precision_and_lose_nothing(
    tmp_path: Path, tiny_model: Path, in_folder: bool
) -> None:
    generator = SD3Generator.from_pretrained(
        str(tiny_model), height=64, width=64, max_sequence_length=0, encoder_dtype=torch.bfloat16
    )
    encoder = PromptEncoder(generator, "cpu", tmp_path if in_folder else None, dtype=torch.bfloat16)
    kept, computed = encoder([PromptTask("two cups", None)]), generator.encode_prompts(["two cups"])
    assert kept.tokens.dtype == computed.tokens.dtype == torch.float32
    assert torch.equal(kept.tokens, computed.tokens)
    assert torch.equal(kept.pooled, computed.pooled)
    for file in tmp_path.glob("*.safetensors"):
        assert {value.dtype for value in load_file(file).values()} == {torch.bfloat16}


def test_a_group_reads_its_prompt_once(
    tmp_path: Path, tiny_generator: SD3Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = PromptEncoder(tiny_generator, "cpu", tmp_path)
    read: list[Path] = []
    monkeypatch.setattr(embeddings_cache, "load_file", lambda file: read.append(file) or load_file(file))
    one, other = PromptTask("two cups", None), PromptTask("a dog", None)
    found = encoder([one, one, other, one])
    assert len(read) == 2
    assert torch.equal(found.tokens[1], found.tokens[3])
    assert torch.equal(found.tokens[2:3], encoder([other]).tokens)


def test_a_machine_with_a_folder_of_its_own_has_all_prompts(tmp_path: Path, tiny_generator: SD3Generator) -> None:
    """Before the barrier a process encodes its share; what the others put elsewhere it must encode too."""
    prompts = [PromptTask(f"{number} cups", None) for number in range(5)]
    encoder = PromptEncoder(tiny_generator, "cpu", tmp_path)
    at_barrier: list[int] = []
    second = SimpleNamespace(
        process_index=1,
        num_processes=2,
        is_main_process=False,
        wait_for_everyone=lambda: at_barrier.append(len(list(tmp_path.glob("*.safetensors")))),
    )
    encoder.fill_folder(prompts, second)
    assert at_barrier == [3]  # the empty prompt, and two of the five
    tiny_generator.drop_text_encoders()
    assert len(encoder(prompts)) == 5


def test_a_cache_of_another_model_is_not_read(tmp_path: Path, tiny_generator: SD3Generator) -> None:
    encoder = PromptEncoder(tiny_generator, "cpu", tmp_path, model="one")
    kept = encoder([PromptTask("two cups", None)])
    assert torch.equal(kept.tokens, encoder([PromptTask("two cups", None)]).tokens)
    tiny_generator.drop_text_encoders()
    assert torch.equal(
        kept.tokens, PromptEncoder(tiny_generator, "cpu", tmp_path, "one")([PromptTask("two cups", None)]).tokens
    )
    with pytest.raises(ConfigError, match="encode all prompts before"):
        PromptEncoder(tiny_generator, "cpu", tmp_path, model="other")


def _lora_of_text_encoder(model: Path, folder: Path, seed: int) -> None:
    """A LoRA that changes the transformer, as all do, and the first text encoder."""
    torch.manual_seed(seed)
    pipeline = SD3Generator.load_pipeline(str(model))
    layers = []
    for part, target in ((pipeline.transformer, "attn.to_q"), (pipeline.text_encoder, "q_proj")):
        part.add_adapter(LoraConfig(r=2, target_modules=[target], init_lora_weights=False))
        layers.append(get_peft_model_state_dict(part))
    pipeline.save_lora_weights(folder, transformer_lora_layers=layers[0], text_encoder_lora_layers=layers[1])


def test_embeddings_are_kept_apart_by_what_is_fused_into_the_text_encoders(
    tmp_path: Path, tiny_model: Path, pictures: Path
) -> None:
    """Without a cold start, with one, and with one on top of another: each as its own text encoder has them."""
    lora, upon = tmp_path / "lora", tmp_path / "upon"
    _lora_of_text_encoder(tiny_model, lora, seed=1)
    _lora_of_text_encoder(tiny_model, upon, seed=2)
    cache, sizes, found = tmp_path / "cache", [], []

    def train_and_look(cold_start: Path | None) -> None:
        model = {"embeddings_cache": str(cache), "cold_start_lora": cold_start and str(cold_start)}
        known = set(cache.glob("*.safetensors"))
        folder = tmp_path / f"run{len(sizes)}"
        _train(folder, tiny_model, _sft(pictures, optimizer_steps_per_epoch=1), model=model, run={"epochs": 1})
        new = set(cache.glob("*.safetensors")) - known
        sizes.append(len(new))
        found.append(sum(load_file(file)["tokens"].double().sum().item() for file in new))

    train_and_look(None)
    train_and_look(lora)
    train_and_look(upon)
    (upon / "needs.json").write_text(json.dumps({"base": str(tiny_model), "fuse_first": str(lora)}))
    train_and_look(upon)
    assert sizes == [sizes[0]] * 4
    assert sizes[0] > 1
    assert len(set(found)) == 4
    shutil.rmtree(lora)
    _lora_of_text_encoder(tiny_model, lora, seed=3)  # what lies below has changed
    train_and_look(upon)
    assert sizes[4] == sizes[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 1 is not JSON"),
        ('{"prompt": "x"}', r"line 1 must have the fields prompt, image: 'image'"),
        ('{"prompt": "x", "image": "none.png"}', r"line 1: .*none.png does not exist"),
        ('{"prompt": 3, "image": "none.png"}', r"line 1 must have .*: prompt is 3, not a text"),
        ('{"prompt": "x", "image": ["a.png"]}', r"line 1 must have .*: image is \['a.png'\], not a text"),
        ('{"prompt": "x", "image": "none.png", "metadata": "a"}', r"line 1 must have"),
        ("[1]", r"line 1 must have"),
        ('{"prompt": "x", "image": "a.png", "references": "a.png"}', r"line 1 .*references is 'a.png', not a list"),
        ('{"prompt": "x", "image": "a.png", "references": ["b.png"]}', r"line 1: references .*b.png do not exist"),
        (
            '{"prompt": "x", "image": "a.png"}\n\n{"prompt": "x", "image": "a.png", "references": ["a.png"]}',
            r"same number and sizes; line 1 has none, line 3 has 4x4",
        ),
        ("\n \n", r"has no line"),
    ],
)
def test_broken_data_is_named_by_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "data.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=message):
        read_rows(tmp_path / "data.jsonl", ["image"])


def test_a_line_without_a_task_and_an_empty_line_are_no_faults(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "data.jsonl").write_text('{"prompt": "x", "image": "a.png", "metadata": null}\n\n')
    (row,) = read_rows(tmp_path / "data.jsonl", ["image"])
    assert (row.prompt, row.images, row.task) == ("x", (tmp_path / "a.png",), None)


def test_a_picture_of_another_shape_is_cut_not_squashed(tmp_path: Path) -> None:
    """Of a wide picture with a red left, a green middle and a blue right third, a square keeps the middle."""
    wide = np.zeros((8, 24, 3), np.uint8)
    for third in range(3):
        wide[:, 8 * third : 8 * third + 8, third] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    found = read_picture(tmp_path / "wide.png", (4, 4))
    assert found.shape == (4, 4, 3)
    np.testing.assert_allclose(found, np.full((4, 4, 3), [0, 255, 0]), atol=15)  # the filter sees a little beyond
    np.testing.assert_array_equal(read_picture(tmp_path / "wide.png", (24, 8)), wide)


def test_a_picture_that_cannot_be_read_stops_with_its_name(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "broken.png").write_bytes(np.random.default_rng(0).bytes(100))
    (tmp_path / "data.jsonl").write_text('{"prompt": "x", "image": "broken.png"}\n')
    with pytest.raises(ConfigError, match=r"broken\.png is not an image that can be read"):
        _train(tmp_path, tiny_model, _sft(tmp_path / "data.jsonl"))


@pytest.mark.parametrize("changed", ["algorithm.data", "pictures", "prompts.test", "model.cold_start_lora"])
def test_a_run_is_not_taken_up_after_its_files_have_changed(tmp_path: Path, tiny_model: Path, changed: str) -> None:
    """The settings are the same; what they name is another task, or another reference."""
    data = write_captioned_pictures(tmp_path / "pictures", 4, seed=0)
    prompts, lora = tmp_path / "prompts.jsonl", tmp_path / "cold"
    prompts.write_text(PROMPTS.read_text())
    generator = SD3Generator.from_pretrained(str(tiny_model), height=64, width=64, max_sequence_length=0)
    generator.add_lora(2, 4)
    generator.save_lora(lora)
    arguments: dict[str, Any] = {
        "model": {"cold_start_lora": str(lora)},
        "prompts": {"test": str(prompts)},
        "run": {"epochs": 1},
    }
    _train(tmp_path, tiny_model, _sft(data), **arguments)
    _train(tmp_path, tiny_model, _sft(data), **arguments)
    if changed == "model.cold_start_lora":
        generator.save_lora(lora, {name: value + 1 for name, value in generator.transformer.named_parameters()})
    elif changed == "pictures":
        (data.parent / json.loads(data.read_text().splitlines()[0])["image"]).open("ab").write(b"more")
    else:
        file = prompts if changed == "prompts.test" else data
        file.write_text("\n".join(file.read_text().splitlines()[1:]))
    with pytest.raises(ConfigError, match=f"holds a run with content of {changed} = "):
        _train(tmp_path, tiny_model, _sft(data), **arguments)


def test_another_runs_folder_is_refused_by_all_processes_before_anything_is_loaded(
    tmp_path: Path, tiny_model: Path, pictures: Path
) -> None:
    _train(tmp_path, tiny_model, _sft(pictures), run={"epochs": 1})
    absent = tmp_path / "absent"
    process = start_run(_configure(tmp_path, absent, _sft(pictures)), processes=2)
    output, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    assert output.count("holds a run with model.path") == 2
    assert "no such folder" not in output


def test_a_folder_in_which_nothing_was_trained_is_free(tmp_path: Path, tiny_model: Path, pictures: Path) -> None:
    """A run whose model was misspelt is started again with the right one, without deleting anything."""
    with pytest.raises(ConfigError, match="no such folder"):
        _train(tmp_path, tmp_path / "absent", _sft(pictures))
    assert len(list(_train(tmp_path, tiny_model, _sft(pictures)).glob("lora/*.safetensors"))) == 1


def test_a_lora_says_what_must_be_fused_before_it(tmp_path: Path, tiny_model: Path, pictures: Path) -> None:
    cold = _train(tmp_path / "cold", tiny_model, _sft(pictures), run={"epochs": 1})
    assert not (cold / "lora/needs.json").exists()
    run = _train(tmp_path / "next", tiny_model, _sft(pictures), run={"epochs": 1}, model={"cold_start_lora": str(cold)})
    for folder in (run / "lora", run / "checkpoints/epoch-000001/lora"):
        needs = json.loads((folder / "needs.json").read_text())
        assert needs == {"base": str(tiny_model), "fuse_first": str(cold)}
    generator = SD3Generator.from_pretrained(str(tiny_model), height=64, width=64, max_sequence_length=0)
    generator.fuse_lora(needs["fuse_first"])
    generator.pipeline.load_lora_weights(str(run / "lora"))  # the file beside it is in nobody's way
    assert generator.pipeline.get_active_adapters()


def test_a_lora_is_loaded_upon_all_that_it_was_trained_upon(tmp_path: Path, tiny_model: Path, pictures: Path) -> None:
    """Three stages; whoever loads the last has the first two as well."""
    runs: list[Path] = []
    for stage in range(3):
        model = {"cold_start_lora": str(runs[-1])} if runs else {}
        runs.append(_train(tmp_path / str(stage), tiny_model, _sft(pictures), run={"epochs": 1}, model=model))
    found = load_pipeline(str(tiny_model), "cpu", torch.float32, str(runs[2])).transformer
    expected = SD3Generator.load_pipeline(str(tiny_model))
    for run in runs[:2]:
        expected.load_lora_weights(str(run / "lora"))
        expected.fuse_lora()
        expected.unload_lora_weights()
    expected.load_lora_weights(str(runs[2] / "lora"))
    wanted = expected.transformer.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    for name, tensor in found.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-6)
    before = digest_model(str(tiny_model), str(runs[2]))
    shutil.move(runs[0], tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"needs.json: fuse_first = '.*/0/run': there is no such folder"):
        load_pipeline(str(tiny_model), "cpu", torch.float32, str(runs[2]))
    shutil.move(tmp_path / "gone", runs[0])
    assert digest_model(str(tiny_model), str(runs[2])) == before
    assert digest_model(str(tiny_model), str(runs[1])) not in before
