"""A Show-o folder is evaluated by the same command as any diffusers model."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from assay.testing import serve_in_background
from miniature.prompts import counting_metadata
from miniature.recipes import showo, showo_tokenizer
from pipelines.evaluate.command import evaluate_geneval
from services.geneval.service import build_scorers

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Untrained, at the miniature's size."""
    torch.manual_seed(0)
    vq_model = showo_tokenizer.build_model(bits=6, width=8).eval()
    showo.build_pipeline(vq_model, heads=1, layers=1).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_images_are_made_scored_and_not_made_twice(model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(counting_metadata(name, 2)) + "\n" for name in ("cup", "kite")))
    config = yaml.safe_load((ROOT / "configs/services/geneval.yaml").read_text())["scorer"]
    output = tmp_path / "out"
    flags = [f"model={model}", f"prompts={prompts}", f"output={output}", "num_images=2", "num_steps=3", "height=64"]
    with serve_in_background(build_scorers(config)) as server:
        targets = f"targets=[{server.target!r}]"
        assert evaluate_geneval(None, [*flags, targets]) == 0
        pictures = sorted((output / "images").rglob("*.png"))
        assert len(pictures) == 4
        assert len({path.read_bytes() for path in pictures}) == 4
        with Image.open(pictures[0]) as picture:
            assert picture.size == (64, 64)
        made = pictures[0].stat().st_mtime_ns
        assert evaluate_geneval(None, [*flags, targets]) == 0
        assert pictures[0].stat().st_mtime_ns == made
    summary = json.loads((output / "summary.json").read_text())
    assert not summary["unscored"]
    assert summary["overall"][0] == 0  # it cannot draw yet
