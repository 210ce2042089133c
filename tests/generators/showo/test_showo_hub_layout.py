"""Files as the hub has them: what was saved comes back; what is broken, foreign or could run code does not."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_showo import build_transformer, build_vq_model

from assay.errors import ConfigError
from generators.showo.magvit import MAGVITv2
from generators.showo.transformer import Showo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_transformer().save_pretrained(tmp_path)
    return tmp_path


def test_what_was_saved_comes_back(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "pytorch_model.safetensors"]
    with safe_open(folder / "pytorch_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((folder / "config.json").read_text())
    assert config["_class_name"] == "Showo"
    assert config["mask_token_id"] == config["vocab_size"] - 1
    loaded, wanted = Showo.from_pretrained(folder), build_transformer()
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), wanted.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    ids, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 1, 3, 3, dtype=torch.bool)
    with torch.no_grad():  # the rotary frequencies, which no file holds, are right as well
        assert torch.equal(loaded(ids, mask), wanted(ids, mask))


def test_a_picture_tokenizer_comes_back(tmp_path: Path) -> None:
    built = build_vq_model()
    built.save_pretrained(tmp_path)
    loaded = MAGVITv2.from_pretrained(tmp_path)
    assert loaded.config["encoder_ch_mult"] == [1, 1, 2]
    pixels = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = loaded.get_code(pixels)
    assert torch.equal(codes, built.get_code(pixels))
    assert torch.equal(loaded.decode_code(codes, (4, 6)), built.decode_code(codes, (4, 6)))


def test_other_precisions_touch_floats_alone(folder: Path, tmp_path: Path) -> None:
    loaded = Showo.from_pretrained(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    ids, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 1, 3, 3, dtype=torch.bool)
    assert loaded(ids, mask).dtype == torch.float32
    build_vq_model().half().save_pretrained(tmp_path / "vq")
    quantizer = MAGVITv2.from_pretrained(tmp_path / "vq").quantize
    assert quantizer.embedding.dtype == torch.float32
    assert quantizer.power_vals.dtype == torch.int64


def test_bin_files_are_read(folder: Path) -> None:
    stored = load_file(folder / "pytorch_model.safetensors")
    (folder / "pytorch_model.safetensors").unlink()
    torch.save(stored, folder / "pytorch_model.bin")
    loaded = Showo.from_pretrained(folder)
    assert torch.equal(loaded.showo.lm_head.bias, stored["showo.lm_head.bias"])


class _Command:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_bin_file_cannot_run_code(folder: Path) -> None:
    (folder / "pytorch_model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"showo.lm_head.bias": _Command(folder / "ran")}, file, protocol=2)
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin cannot be read"):
        Showo.from_pretrained(folder)
    assert not (folder / "ran").exists()


def test_a_half_empty_file_is_refused(folder: Path) -> None:
    stored = load_file(folder / "pytorch_model.safetensors")
    del stored["showo.lm_head.bias"]
    stored["showo.lm_head.scale"] = torch.ones(1)
    save_file(stored, folder / "pytorch_model.safetensors")
    with pytest.raises(ConfigError, match=r"1 are missing \['showo.lm_head.bias'\], 1 are not known"):
        Showo.from_pretrained(folder)


def test_tensors_of_another_size_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"], config["mask_token_id"] = config["vocab_size"] + 1, None
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=r"embed_tokens.weight has shape \(486, 32\); its config.json says \(487, 32\)"
    ):
        Showo.from_pretrained(folder)


def test_missing_and_broken_files_are_named(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no such folder, and its config.json cannot be had from the Hugging Face hub"
    ):
        Showo.from_pretrained("nobody/no-such-model")
    (folder / "pytorch_model.safetensors").write_bytes(b"broken")
    with pytest.raises(ConfigError, match=r"pytorch_model.safetensors cannot be read"):
        Showo.from_pretrained(folder)
    (folder / "pytorch_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"there is no pytorch_model.safetensors in it"):
        Showo.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config.json is no JSON"):
        Showo.from_pretrained(folder)


def test_a_model_with_a_lora_is_not_saved_under_wrong_names(tmp_path: Path) -> None:
    showo = build_transformer()
    showo.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ConfigError, match="a model with a LoRA cannot be saved"):
        showo.save_pretrained(tmp_path)
