"""docs/your_own_trainer.md: its commands and its code, with a served GenEval."""

import asyncio
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from minimal_flow_grpo import load_pipeline
from page_commands import ROOT, commands_of, make_home
from PIL import Image

PAGE = "docs/your_own_trainer.md"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
# The page's commands with less to do: what is shown is that they are right.
SMALLER = {
    "minimal_flow_grpo.py": "--epochs 1 --groups 2 --group-size 2 --steps 4",
    "evaluate geneval": "--num_images 1 max_prompts=4 num_steps=4",
}
APPLES = {"tag": "counting", "include": [{"class": "apple", "count": 3}], "prompt": "a photo of three apples"}
CUPS = {"tag": "counting", "include": [{"class": "cup", "count": 1}], "prompt": "a photo of one cup"}


@pytest.fixture(scope="module")
def apples() -> np.ndarray:
    """A picture of three apples, (height, width, 3) uint8."""
    return np.asarray(Image.open(ROOT / "docs/three_apples.png").convert("RGB"))


def _code(word: str, target: str) -> str:
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / PAGE).read_text(), re.DOTALL)
    (snippet,) = [snippet for snippet in snippets if word in snippet]
    assert "localhost:50051" in snippet
    return snippet.replace("localhost:50051", target)


def test_every_command_of_the_page_runs(geneval: str, tmp_path: Path) -> None:
    home = make_home(tmp_path)
    (home / "examples").symlink_to(ROOT / "examples")
    commands = [command for command in commands_of(PAGE) if " serve " not in command]  # that is the fixture
    assert len(commands) == len(SMALLER)
    for command, (name, less) in zip(commands, SMALLER.items(), strict=True):
        assert name in command
        done = subprocess.run(
            ["bash", "-c", f"{command} --target {geneval} {less}"],
            cwd=home,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (home / "runs/minimal/pytorch_lora_weights.safetensors").stat().st_size > 0
    assert json.loads((home / "runs/geneval/minimal/summary.json").read_text())["scored"] == 4


def test_the_lines_for_flow_grpo_score_a_picture(geneval: str, apples: np.ndarray) -> None:
    scope: dict = {}
    exec(_code("make_score_fn", geneval), scope)
    images = torch.from_numpy(apples.copy()).permute(2, 0, 1)[None].repeat(2, 1, 1, 1) / 255
    rewards, _ = scope["reward_fn"](images, ["three", "one"], (APPLES, CUPS), only_strict=True)
    assert rewards["strict_accuracy"] == [1, 0]
    assert rewards["avg"][0] == 1 > rewards["avg"][1]


def test_the_settings_for_verl_omni_are_those_of_the_adapter(geneval: str, apples: np.ndarray) -> None:
    pattern = re.compile(r"^    (\+?reward\.\S+)=(\S+)$", re.MULTILINE)
    settings = dict(pattern.findall((ROOT / PAGE).read_text()))
    assert settings == dict(pattern.findall((ROOT / "examples/verl_omni_compute_score.py").read_text()))
    assert settings["+reward.reward_functions.counting.required"] == "true"

    from verl_omni_compute_score import compute_score

    image = torch.from_numpy(apples.copy()).permute(2, 0, 1)
    extra_info = {"geneval": json.dumps(APPLES)}
    result = asyncio.run(compute_score("geneval", image, "three", extra_info, targets=[geneval], scorer="counting"))
    assert result == {"score": 1.0}


def test_the_lines_for_trl_judge_what_the_generator_draws(geneval: str) -> None:
    scope: dict = {"pipe": load_pipeline("miniature/weights/sd3")}
    scope["pipe"].set_progress_bar_config(disable=True)
    exec(_code("make_image_reward", geneval), scope)
    torch.manual_seed(0)
    rewards = asyncio.run(
        scope["reward"](prompts=["draw"] * 8, completions=[CUPS["prompt"]] * 8, geneval=[json.dumps(CUPS)] * 7 + [None])
    )
    assert rewards[7] is None
    assert all(0 <= reward <= 1 for reward in rewards[:7])
    # The generator draws one cup right more often than not (its model card: 0.60 strictly).
    assert sum(reward == 1 for reward in rewards[:7]) >= 2
