"""examples/minimal_flow_grpo.py: short, the reference's numbers, and a run that learns, as a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import minimal_flow_grpo as example
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from red_judge import RedJudge
from safetensors import safe_open

from assay.outcomes import Failed, Scored
from assay.testing import serve_in_background

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
SCRIPT = ROOT / "examples/minimal_flow_grpo.py"
GOLDEN = ROOT / "tests/golden"
TINY = ("--epochs", "2", "--groups", "4", "--group-size", "4", "--steps", "4")
EPOCH = re.compile(r"epoch (\d+): reward (\S+), (\d+) of (\d+) groups scored, first ratio off by (\S+),")


def _run(*arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout_s)


def _rewards(output: str) -> list[float]:
    return [float(match[2]) for match in EPOCH.finditer(output)]


def test_it_is_short_and_stands_alone() -> None:
    source = SCRIPT.read_text()
    assert len(source.splitlines()) <= 250
    ours = re.findall(r"^(?:from|import) (assay\S*|trainer\S*|generators\S*|services\S*|pipelines\S*)", source, re.M)
    assert ours == ["assay.client", "assay.outcomes"]


def test_a_run_learns_from_a_served_geneval_and_leaves_a_lora(geneval: str, tmp_path: Path) -> None:
    done = _run(*TINY, "--target", geneval, "--output", str(tmp_path / "lora"))
    assert done.returncode == 0, done.stderr
    epochs = EPOCH.findall(done.stdout)
    assert [epoch[0] for epoch in epochs] == ["1", "2"]
    assert all(0 < float(reward) < 1 for reward in _rewards(done.stdout))
    assert all(epoch[2:4] == ("4", "4") for epoch in epochs)
    assert [epoch[4] for epoch in epochs] == ["0", "0"]  # on-policy, the ratio is exactly 1

    pipe = example.load_pipeline("miniature/weights/sd3")
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 64, "width": 64, "guidance_scale": 1.0, "max_sequence_length": 0, "num_inference_steps": 4}

    def picture() -> np.ndarray:
        made = pipe("a photo of two cups", generator=torch.Generator().manual_seed(0), **size)
        return np.asarray(made.images[0]).astype(int)

    plain = picture()
    pipe.load_lora_weights(str(tmp_path / "lora"))
    assert np.abs(picture() - plain).max() > 0
    (adapter,) = pipe.transformer.peft_config.values()
    assert (adapter.r, adapter.lora_alpha) == (32, 64)  # at the strength that it was trained with


def test_an_image_without_score_drops_its_group_and_no_other(tmp_path: Path) -> None:
    with serve_in_background([RedJudge(fail_at=5)]) as server:
        done = _run(*TINY, "--target", server.target, "--scorer", "redness", "--output", str(tmp_path / "lora"))
    assert done.returncode == 0, done.stderr
    assert "a group is dropped: 1 of its images have no score (this picture cannot be judged)" in done.stdout
    assert [epoch[2:4] for epoch in EPOCH.findall(done.stdout)] == [("3", "4"), ("4", "4")]


def test_an_unknown_scorer_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    with serve_in_background([RedJudge()]) as server:
        done = _run(*TINY, "--target", server.target, "--scorer", "blueness", "--output", str(tmp_path / "lora"))
    assert done.returncode != 0
    assert "blueness" in done.stderr
    assert "redness" in done.stderr
    assert not (tmp_path / "lora").exists()


def _sde_cases() -> list[dict]:
    with safe_open(GOLDEN / "flow_grpo_sde_step.safetensors", "pt") as file:
        return json.loads(file.metadata()["cases"])


@pytest.mark.parametrize("case", _sde_cases(), ids=lambda case: case["key"])
def test_step_and_log_probability_equal_the_reference(case: dict) -> None:
    with safe_open(GOLDEN / "flow_grpo_sde_step.safetensors", "pt") as file:
        wanted = {
            name: file.get_tensor(f"{case['key']}.{name}")
            for name in ("sample", "velocity", "prev_sample", "log_prob", "prev_sample_mean", "std_dev_t")
        }
    scheduler = FlowMatchEulerDiscreteScheduler(shift=case["shift"])
    scheduler.set_timesteps(case["num_steps"])
    sigma, sigma_next = torch.tensor(case["sigma"]), torch.tensor(case["sigma_next"])
    mean, std = example.gaussian_of_step(
        wanted["sample"].float(),
        wanted["velocity"].float(),
        sigma,
        sigma_next,
        scheduler.sigmas[1],
        case["noise_level"],
    )
    log_prob = example.log_probability(wanted["prev_sample"].float(), mean, std)
    wanted_std = wanted["std_dev_t"].flatten()[0] * torch.sqrt(sigma - sigma_next)
    pairs = ((log_prob, wanted["log_prob"]), (mean, wanted["prev_sample_mean"]), (std, wanted_std))
    for got, reference in pairs:
        error = ((got - reference.reshape(got.shape)).abs() / reference.reshape(got.shape).abs().clamp(min=1)).max()
        assert error.item() <= 1e-5


def _advantage_cases() -> list[dict]:
    cases = [json.loads(line) for line in (GOLDEN / "flow_grpo_advantages.jsonl").read_text().splitlines()]
    return [case for case in cases if case["global_std"]]


@pytest.mark.parametrize("case", _advantage_cases())
def test_advantages_equal_the_reference(case: dict) -> None:
    prompts, rewards = np.array(case["prompts"]), np.array(case["rewards"])
    names = list(dict.fromkeys(case["prompts"]))
    groups = [torch.tensor(rewards[prompts == name]) for name in names]
    for name, own in zip(names, example.advantages_of(groups), strict=True):
        wanted = np.clip(np.array(case["advantages"])[prompts == name], -5, 5)
        got = np.zeros_like(wanted) if own is None else own.numpy()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9)


def test_a_failed_score_is_no_number() -> None:
    failed = Failed("INVALID_ARGUMENT", "NOT_RED", "this picture cannot be judged")
    assert example.rewards_of([Scored(1.0), failed]) is None
    assert example.rewards_of([Scored(1.0), Scored(0.25)]).tolist() == [1.0, 0.25]  # type: ignore[union-attr]
    # The dropped group counts neither in the deviation nor as zeros.
    one, none, equal = example.advantages_of([torch.tensor([1.0, 0.0]), None, torch.tensor([0.3, 0.3])])
    spread = np.std([1.0, 0.0, 0.3, 0.3])
    np.testing.assert_allclose(one.numpy(), [0.5 / (spread + 1e-4), -0.5 / (spread + 1e-4)], rtol=1e-6)
    assert none is None
    assert equal is None
    assert example.advantages_of([None, None]) == [None, None]


def test_an_update_makes_the_better_images_more_likely() -> None:
    pipe = example.load_pipeline("miniature/weights/sd3")
    pipe.scheduler.set_timesteps(4)
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(example.add_lora(pipe.transformer), lr=1.0)
    text = example.encode(pipe, "a photo of two cups", 4)
    states, log_probs = example.sample(pipe, text, 64, torch.Generator().manual_seed(0))
    group = example.Group(text, states, log_probs, None)  # type: ignore[arg-type]
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert example.update(pipe, optimizer, [(group, advantages), (group, None)], clip=1e-3) == 0

    with torch.no_grad():
        after = [
            example.log_probability(states[:, index + 1], *example.policy_step(pipe, states[:, index], index, text))
            for index in range(2)  # the first half of the steps is trained
        ]
    change = (torch.stack(after, 1) - log_probs[:, :2]).sum(1)
    assert (change * advantages).sum() > 0
    assert example.update(pipe, optimizer, [(group, advantages)], clip=1e-3) > 0  # now it is off-policy


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_reward_rises_with_the_defaults(geneval: str, tmp_path: Path) -> None:
    """Every three epochs go through the 24 prompts twice, so that start and end are of the same prompts."""
    done = _run("--epochs", "9", "--target", geneval, "--output", str(tmp_path / "lora"), timeout_s=840)
    assert done.returncode == 0, done.stderr
    rewards = _rewards(done.stdout)
    print(done.stdout)
    assert len(rewards) == 9
    assert np.mean(rewards[-3:]) - np.mean(rewards[:3]) > 0.03
