"""Points are learnt from spatial data: two pictures, no marks in the text, an answer in digits."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_verifier import save_picture
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaProcessor
from typer.testing import CliRunner

from assay import cli
from assay.config import load_config
from assay.errors import ConfigError
from trainer.vlm.config import FineTuningConfig
from trainer.vlm.conversations import read_conversations
from trainer.vlm.exact_answers import ExactAnswers
from trainer.vlm.fine_tuning import fine_tune
from trainer.vlm.one_batch import check_one_batch
from trainer.vlm.rendering import Renderer

ANSWERS = ("[(0.2, 0.7)]", "no", "[(0.8, 0.1)]")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Each answer goes with the first picture; the second is always the same."""
    same = str(tmp_path / save_picture(tmp_path, 50, red=True))
    rows = []
    for number, answer in enumerate(ANSWERS):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[..., number] = 255
        Image.fromarray(pixels).save(tmp_path / f"view{number}.png")
        said = [{"from": "human", "value": "Where is it?"}, {"from": "gpt", "value": answer}]
        rows.append({"id": f"s{number}", "image": [str(tmp_path / f"view{number}.png"), same], "conversations": said})
    (tmp_path / "t1_train_multi.json").write_text(json.dumps(rows))
    return tmp_path / "t1_train_multi.json"


@pytest.fixture
def settings(tiny_base: Path, data: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(tiny_base),
        "data": [{"path": str(data)}],
        "held_out": [{"path": str(data)}],
        "held_out_answers": "exact",
        "output": str(tmp_path / "out"),
        "max_steps": 90,
        "batch_size": 3,
        "learning_rate": 4e-3,
        "trackers": [],
        "threads": 1,
    }


def test_marks_are_put_in_for_every_image(data: Path) -> None:
    first = read_conversations(data)[0]
    assert first.said == ("<image>\n<image>\nWhere is it?", ANSWERS[0])
    entries = json.loads(data.read_text())
    entries[0]["image"] = entries[0]["image"][0]  # a concatenated picture
    data.write_text(json.dumps(entries))
    assert read_conversations(data)[0].said[0] == "<image>\nWhere is it?"


def test_what_counts_as_exact_is_what_greedy_decoding_writes(settings: dict[str, Any], tmp_path: Path) -> None:
    fine_tune(FineTuningConfig.model_validate(settings))
    before, after = [json.loads(line)["answer"] for line in (tmp_path / "out/held_out.jsonl").read_text().splitlines()]
    assert (before["questions"], before["agreement"]) == (3, 0.0)
    assert after["cross_entropy"] < 0.5 < before["cross_entropy"]
    exact = [json.loads(line)["exact"] for line in (tmp_path / "out/held_out_answers.jsonl").read_text().splitlines()]
    assert after["agreement"] == pytest.approx(np.mean(exact))
    assert any(exact)
    folder = tmp_path / "out/model"
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    renderer = Renderer(processor)
    conversations = read_conversations(Path(settings["data"][0]["path"]))
    for conversation, is_exact in zip(conversations, exact, strict=True):
        text = renderer.before_answer(conversation, 0)
        inputs = renderer.inputs([text], [conversation.images], side="left")
        tokens = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert (processor.tokenizer.decode(tokens, skip_special_tokens=True) == conversation.said[1]) == is_exact
    assert renderer.before_answer(conversations[0], 0).count("<image>") == 2


def test_one_wrong_token_is_a_wrong_answer(tiny_base: Path, data: Path) -> None:
    """Against the definition, token by token: a model that says what it is told to, but for one token of one answer."""
    renderer = Renderer(AutoProcessor.from_pretrained(tiny_base))
    conversations = read_conversations(data)
    judge = ExactAnswers(conversations, renderer, batch_size=2)

    class Says:
        dtype = torch.float32

        def __call__(self, input_ids: torch.Tensor, **_: torch.Tensor) -> Any:
            told = torch.roll(input_ids, -1, dims=1)
            if len(input_ids) == 2:  # the first batch; its last token of all is the end of the longer answer
                told[0, (input_ids[0] != 0).nonzero()[-3]] += 1
            logits = 9.0 * torch.nn.functional.one_hot(told % 4000, 4000).float()
            return type("Output", (), {"logits": logits})

    class OneProcess:
        num_processes, process_index, device = 1, 0, "cpu"

    found = judge.evaluate(Says(), OneProcess())  # type: ignore[arg-type]
    assert found is not None
    assert [line["exact"] for line in found.lines] == [False, True, True]
    assert found.summary["answer"]["agreement"] == pytest.approx(2 / 3)


def test_a_frozen_vision_tower_by_the_environment(
    settings: dict[str, Any], tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({**settings, "max_steps": 2}))
    monkeypatch.setenv("FREEZE_VISION", "1")
    result = CliRunner().invoke(cli.app, ["train", "spatial", str(config)])
    assert result.exit_code == 0, result.output
    assert f"assay serve spatial scorer.backend.model={tmp_path / 'out/model'}" in result.output
    old, new = load_file(tiny_base / "model.safetensors"), load_file(tmp_path / "out/model/model.safetensors")
    moved = {name for name in new if not torch.equal(new[name], old[name].to(new[name]))}
    assert moved
    assert not [name for name in moved if "vision_tower" in name]
    monkeypatch.setenv("FREEZE_VISION", "yes")
    with pytest.raises(ConfigError, match="FREEZE_VISION = 'yes'; allowed: 0, 1"):
        CliRunner().invoke(cli.app, ["train", "spatial", str(config)], catch_exceptions=False)


def test_the_one_batch_check_says_what_is_in_it(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(settings))
    assert check_one_batch(config, []) == 0
    said = capsys.readouterr().out
    assert "3 conversations; a batch of 3" in said
    assert "  pixel_values: (6, 3, 64, 64) float32" in said
    assert f"  s0: 2 images, 128 places for them, learns '{ANSWERS[0]}<|im_end|>" in said
    assert "OK: one-batch check passed" in said
    assert not (tmp_path / "out").exists()
    assert load_config(FineTuningConfig, config, []).held_out_answers == "exact"


def test_the_one_batch_check_looks_at_a_row_of_each_number_of_images(
    settings: dict[str, Any], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a mixture, pairs come first, and concatenated pictures behind them."""
    rows = json.loads(data.read_text())
    rows.append({**rows[0], "id": "whole", "image": rows[0]["image"][0]})
    data.write_text(json.dumps(rows))
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({**settings, "batch_size": 2}))
    assert check_one_batch(config, []) == 0
    said = capsys.readouterr().out
    assert "4 conversations; a batch of 2" in said
    assert "  s0: 2 images, 128 places for them" in said
    assert "  whole: 1 images, 64 places for them" in said


def test_the_one_batch_check_refuses_an_image_without_places(
    settings: dict[str, Any], tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where 64 places stand for two images; and where the chat template drops a second image."""
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(settings))
    with monkeypatch.context() as patched:
        patched.setattr(
            LlavaProcessor, "replace_image_token", lambda self, _, image_idx, **__: "" if image_idx else 64 * "<image>"
        )
        with pytest.raises(ConfigError, match=r"'s0': 2 images; places in the text by image: 64, 0; in all: 64"):
            check_one_batch(config, [])
    folder = tmp_path / "model"
    shutil.copytree(tiny_base, folder)
    processor = AutoProcessor.from_pretrained(folder)
    template = processor.chat_template.replace("<image>", "{% if loop.first %}<image>{% endif %}")
    processor.chat_template = processor.tokenizer.chat_template = template
    processor.save_pretrained(folder)
    config.write_text(json.dumps({**settings, "model": str(folder)}))
    with pytest.raises(ConfigError, match=r"conversation 's0': the processor refuses it: .* 1 <image> tokens and 2 im"):
        check_one_batch(config, [])
