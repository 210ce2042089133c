"""The memory of a run, told before it is needed: by hand, and against what a real epoch keeps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import StableDiffusion3Pipeline
from redness import Redness
from torch import Tensor

from assay.config import load_config
from assay.rewards import RewardSet
from assay.testing import serve_in_background
from generators.loading import load_trainable
from generators.sd3 import SD3Generator
from trainer.config import TrainConfig
from trainer.loop import Trainer
from trainer.memory_estimate import memory_estimate, rollout_bytes
from trainer.rollout import Rollout
from trainer.rollout_source import RolloutSource

ROOT = Path(__file__).parents[2]
MINIATURE = ROOT / "configs/train/miniature_counting.yaml"
GUARD = ROOT / "configs/train/sd35m_counting_guard.yaml"


def test_memory_by_hand(tiny_generator: SD3Generator) -> None:
    """Width 64, two layers, 16 tokens an image and 16 of text, a micro-batch of 16, everything in float32."""
    pipeline = tiny_generator.pipeline
    encoders, others = (
        sum(tensor.nbytes for part in parts for tensor in (*part.parameters(), *part.buffers()))
        for parts in ((pipeline.text_encoder, pipeline.text_encoder_2), (pipeline.transformer, pipeline.vae))
    )
    added = sum(parameter.numel() for parameter in tiny_generator.add_lora(2, 4))
    found = memory_estimate(load_config(TrainConfig, MINIATURE), tiny_generator, 1)
    assert found.weights == encoders + others + 4 * added
    assert found.trained == 20 * added
    assert found.activations == 16 * 32 * 64 * 2 * 34 * 2
    changes = ["model.gradient_checkpointing=true", "model.embeddings_cache=cache"]
    less = memory_estimate(load_config(TrainConfig, MINIATURE, changes), tiny_generator, 1)
    assert less.activations * 17 == found.activations
    assert (less.weights, less.encoders) == (others + 4 * added, encoders)
    assert "while prompts are encoded" in str(less)
    assert "while prompts are encoded" not in str(found)


@pytest.mark.parametrize(
    ("overrides", "processes", "expected"),
    [
        ((), 1, 1152 * (262144 * (1 + 9 * 3) + 4 * 9 + 4 * (205 * 4096 + 2048))),  # 8.5 GB of paths, 3.9 GB of prompts
        ((), 8, 144 * (262144 * (1 + 9 * 3) + 4 * 9 + 4 * (205 * 4096 + 2048))),
        (("sampling.one_step_off_policy=true",), 8, 288 * (262144 * 28 + 4 * 9 + 4 * (205 * 4096 + 2048))),
        (("algorithm={name: flow_grpo, window: {size: 3, last: 4}}",), 8, 144 * (262144 * 7 + 12 + 4 * 841728)),
    ],
)
def test_rollouts_at_full_size_by_hand(overrides: tuple[str, ...], processes: int, expected: int) -> None:
    """SD3.5-M at 512 pixels: latents of 16 x 64 x 64, prompts of 205 tokens, 1152 images an epoch."""
    config = load_config(TrainConfig, GUARD, list(overrides))
    assert rollout_bytes(config, processes, 4 * 16 * 64 * 64, 4 * (205 * 4096 + 2048)) == expected


@pytest.mark.parametrize(
    ("model", "length"), [("sd3", 0), ("flux", 16), ("flux2_klein_base", 24)], ids=["sd3", "flux", "flux2_klein_base"]
)
def test_an_images_latents_and_prompt_are_as_large_as_the_model_makes_them(model: str, length: int) -> None:
    settings = {"height": 64, "width": 64, "max_sequence_length": length}
    generator = load_trainable(str(ROOT / "miniature/weights" / model), **settings)
    prompt = generator.encode_prompts(["two cups"])
    parts = [prompt.tokens, generator.encode_images([np.zeros((64, 64, 3), np.uint8)])]
    sample = _bytes([*parts, *([] if prompt.pooled is None else [prompt.pooled])])
    config = load_config(TrainConfig, MINIATURE, ["algorithm={name: nft}"])
    assert memory_estimate(config, generator, 1).rollouts == 256 * sample


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _config(output: Path, model: Path, target: str, *settings: str) -> TrainConfig:
    places = (f"model.path={model}", f"run.output={output}")
    small = (
        f"prompts={{train: {ROOT}/configs/train/prompts/miniature_counting.jsonl}}",
        f"rewards=[{{name: red, scorer: redness, targets: ['{target}']}}]",
        "sampling={num_steps: 4, guidance_scale: 1.5, group_size: 3, groups_per_epoch: 4, micro_batch_size: 5}",
        "evaluation=null",
        "run.trackers=[]",
        "run.epochs=2",
    )
    return load_config(TrainConfig, MINIATURE, [*small, *places, *settings])


ALGORITHMS = {
    "flow_grpo": "{name: flow_grpo, optimizer_steps_per_epoch: 2, timestep_fraction: 0.6}",
    "fast": "{name: flow_grpo, optimizer_steps_per_epoch: 2, window: {size: 1, last: 2}}",
    "grpo_guard": "{name: grpo_guard, optimizer_steps_per_epoch: 2}",
    "nft": "{name: nft, optimizer_steps_per_epoch: 2, noise_draws: 1}",
}


@pytest.mark.parametrize("off_policy", [False, True], ids=["on_policy", "one_step_off_policy"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rollouts_are_what_an_epoch_keeps(
    tmp_path: Path,
    tiny_model: Path,
    tiny_generator: SD3Generator,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    off_policy: bool,
) -> None:
    kept: list[int] = []
    collect = RolloutSource._collect

    def measured(source: RolloutSource, *arguments: Any) -> list[list[Rollout]]:
        steps = collect(source, *arguments)
        kept.append(sum(_bytes(_tensors(rollout)) for step in steps for rollout in step))
        return steps

    monkeypatch.setattr(RolloutSource, "_collect", measured)
    settings = (f"algorithm={ALGORITHMS[algorithm]}", f"sampling.one_step_off_policy={off_policy}".lower())
    with serve_in_background([Redness()]) as server:
        config = _config(tmp_path, tiny_model, server.target, *settings)
        with RewardSet(config.rewards) as rewards:
            rewards.wait_until_ready(10)
            Trainer(config, Accelerator(cpu=True), rewards, [rewards]).run()
    found = memory_estimate(config, tiny_generator, 1).rollouts
    assert found == (sum(kept) if off_policy else kept[0]) > 0  # off-policy both epochs are there at once
    assert len(kept) == 2


def _tensors(rollout: Rollout) -> list[Tensor]:
    drawn, prompts = rollout.trajectory, rollout.prompts
    path = [drawn.clean, drawn.states, drawn.next_states, drawn.means, drawn.log_probs]
    return [*path, *(own for own in (prompts.tokens, prompts.pooled) if own is not None)]


def test_it_is_told_before_anything_is_on_the_device(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StableDiffusion3Pipeline, "to", full)
    config = _config(tmp_path, tiny_model, "localhost:1")
    with RewardSet(config.rewards) as rewards, pytest.raises(torch.OutOfMemoryError):
        Trainer(config, Accelerator(cpu=True), rewards, [rewards])
    printed = capsys.readouterr().out
    assert "an epoch: 12 images, 4 groups of 3" in printed
    assert "memory of a process before sharding, in GiB: weights" in printed
    assert "rollouts" in printed
