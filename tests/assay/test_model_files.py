"""Finding and digesting a model's files, and what a fingerprint follows. Loading is tested with services' models."""

from pathlib import Path

import pytest
import torch

from assay.serving.fingerprint import digest_code, digest_parts
from assay.serving.model_files import ModelLoadError, digest_model, locate_model, resolve_device


@pytest.mark.parametrize("name", ["no/such/folder", "nowhere", "assay-tests/no-such-model"])
def test_model_that_is_nowhere_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match=name):
        locate_model(name)


@pytest.mark.parametrize("device", ["tpu-9000", "cuda:77"])
def test_unusable_device_is_named(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelLoadError, match=device):
        resolve_device(device)


def _model(folder: Path, **changes: str) -> Path:
    files = {"model.safetensors": "weights", "config.json": "{}", "chat_template.jinja": "{{ messages }}", **changes}
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def test_digest_follows_the_contents_not_the_place(tmp_path: Path) -> None:
    one, other = _model(tmp_path / "one"), _model(tmp_path / "other")
    (other / "README.md").write_text("a model card changes nothing")
    assert digest_model(one) == digest_model(other)
    for name in ("model.safetensors", "config.json", "chat_template.jinja"):
        assert digest_model(_model(tmp_path / "changed", **{name: "changed"})) != digest_model(one)


def test_fingerprint_follows_every_part_and_not_their_order() -> None:
    assert digest_parts({"a": "1", "b": "2"}) == digest_parts({"b": "2", "a": "1"})
    assert digest_parts({"a": "1", "b": "2"}) != digest_parts({"a": "2", "b": "1"})


def test_fingerprint_follows_the_code_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("THRESHOLD = 0.3")
    before = digest_code(tmp_path)
    assert digest_code(tmp_path) == before
    (tmp_path / "rules.py").write_text("THRESHOLD = 0.4")
    assert digest_code(tmp_path) != before
