"""The page on Show-o shows code that runs."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from miniature.recipes import showo, showo_tokenizer

PAGE = Path(__file__).parents[3] / "docs" / "show_o.md"


def test_the_step_by_step_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vq_model = showo_tokenizer.build_model(bits=6, width=8).eval()
    showo.build_pipeline(vq_model, heads=1, layers=1).save_pretrained(tmp_path / "miniature/weights/showo")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert len(names["halfway"]) == 8
    assert [picture.shape for picture in names["pictures"]] == [(64, 64, 3)] * 3
    assert names["drawing"].candidates == (0, 3, 4)
    assert not np.array_equal(names["pictures"][0], names["pictures"][1])


def test_every_module_is_on_the_page() -> None:
    folder = PAGE.parents[1] / "generators" / "showo"
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "magvit_blocks", "magvit_coders"}
    table = "".join(line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("|"))
    assert set(re.findall(r"`([a-z_]+)`", table)) == modules
