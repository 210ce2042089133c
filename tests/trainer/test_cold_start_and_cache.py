"""Supervised fine-tuning as a cold start, offline data, and embeddings that are computed once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from redness import Redness
from safetensors.torch import load_file

from assay.errors import ConfigError
from assay.testing import serve_in_background
from generators.sd3 import SD3Generator
from miniature.datasets import write_captioned_pictures
from trainer.cli import train
from trainer.dataset import read_rows
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
    assert train(folder / "config.yaml") == 0
    return folder / "run"


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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 1 is not JSON"),
        ('{"prompt": "x"}', r"line 1 must have the fields prompt, image: 'image'"),
        ('{"prompt": "x", "image": "none.png"}', r"line 1: .*none.png does not exist"),
        ("", r"has no line"),
    ],
)
def test_broken_data_is_named_by_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "data.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=message):
        read_rows(tmp_path / "data.jsonl", ["image"])


def test_a_picture_that_cannot_be_read_stops_with_its_name(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "broken.png").write_bytes(np.random.default_rng(0).bytes(100))
    (tmp_path / "data.jsonl").write_text('{"prompt": "x", "image": "broken.png"}\n')
    with pytest.raises(ConfigError, match=r"broken\.png is not an image that can be read"):
        _train(tmp_path, tiny_model, _sft(tmp_path / "data.jsonl"))
