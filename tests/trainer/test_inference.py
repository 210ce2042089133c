"""`assay infer`: base beside tuned from the same noise, with what a real service says of each."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from assay.errors import ConfigError, ServiceUnavailableError
from assay.testing import serve_in_background
from generators.sd3 import SD3Generator
from services.geneval.service import build_scorers
from trainer.inference import infer

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "miniature/weights/sd3"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders as training leaves them: one whose LoRA does nothing yet, and one whose LoRA does something."""
    generator = SD3Generator.from_pretrained(str(MODEL), height=64, width=64, max_sequence_length=0)
    parameters = generator.add_lora(rank=2, alpha=4)
    folders = {}
    for name, scale in (("untrained", 0.0), ("trained", 0.3)):
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(torch.randn_like(parameter) * scale)
        folders[name] = tmp_path_factory.mktemp(name)
        generator.save_lora(folders[name] / "lora")
    return folders


def run(output: Path, lora: Path, *overrides: str) -> dict[str, np.ndarray]:
    arguments = [f"lora_path={lora}", f"model_name={MODEL}", f"output_dir={output}", "num_images=2", "num_steps=3"]
    arguments += ["height=64", "width=64", "max_sequence_length=0", "guidance_scale=1.0"]
    arguments += [f"prompts={ROOT}/configs/train/prompts/miniature_counting.jsonl"]
    assert infer(None, [*arguments, *overrides]) == 0
    return {path.stem: np.asarray(Image.open(path)).astype(int) for path in output.glob("*_*.png")}


def test_a_lora_that_does_nothing_gives_the_base_pictures(runs: dict[str, Path], tmp_path: Path) -> None:
    pictures = run(tmp_path, runs["untrained"])
    assert set(pictures) == {"base_0", "base_1", "tuned_0", "tuned_1"}
    assert abs(pictures["base_0"] - pictures["tuned_0"]).max() <= 1
    assert abs(pictures["base_0"] - pictures["base_1"]).max() > 20, "each pair has a noise of its own"


def test_a_lora_that_does_something_shows(runs: dict[str, Path], tmp_path: Path) -> None:
    pictures = run(tmp_path / "a", runs["trained"])
    assert abs(pictures["base_0"] - pictures["tuned_0"]).max() > 20
    again = run(tmp_path / "b", runs["trained"] / "lora")
    assert all((pictures[name] == again[name]).all() for name in pictures), "the run's folder and the LoRA's are one"
    other = run(tmp_path / "c", runs["trained"], "custom_prompt=a photo of four kites", "seed=7")
    assert (other["base_0"] != pictures["base_0"]).any()
    assert json.loads((tmp_path / "c/results.json").read_text()) == {"prompt": "a photo of four kites", "scores": {}}


def test_pictures_of_a_drawn_task_are_scored(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((ROOT / "configs/services/geneval.yaml").read_text())["scorer"]
    with serve_in_background(build_scorers(config)) as server:
        run(tmp_path, runs["trained"], f"target={server.target}")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["prompt"].startswith("a photo of ")
    assert {name: len(scores) for name, scores in results["scores"].items()} == {"base": 2, "tuned": 2}
    assert all(0 <= score["value"] <= 1 for scores in results["scores"].values() for score in scores)
    assert Image.open(tmp_path / "comparison.png").width > 400
    assert "base: mean counting" in capsys.readouterr().out


def test_a_service_that_does_not_answer_is_said_before_anything_is_made(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.inference.WAIT_FOR_SERVICE_S", 0.5)
    with pytest.raises(ServiceUnavailableError, match="localhost:1"):
        run(tmp_path / "out", runs["trained"], "target=localhost:1")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["lora_path=/nowhere/at/all"], "does not fit model"),
        (["model_name=/nowhere/at/all"], "cannot be loaded"),
        (["prompts=/nowhere.jsonl"], "does not exist"),
        (["num_steps=0"], "num_steps = 0"),
        (["custom_prompt=a cat", "target=localhost:1"], "not custom_prompt"),
        (["num_image=4"], "did you mean num_images"),
    ],
)
def test_wrong_settings_are_refused(overrides: list[str], says: str, runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        run(tmp_path, runs["trained"], *overrides)
