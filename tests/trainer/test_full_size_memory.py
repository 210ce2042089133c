"""The table of memory in docs/full_size.md, worked out anew on the published sizes."""

from functools import cache
from pathlib import Path

import pytest
import torch
from full_size_models import FULL_SIZE

from assay.config import load_config
from generators.loading import TRAINABLE
from generators.trainable import TrainableGenerator
from trainer.config import ModelConfig, TrainConfig
from trainer.memory_estimate import memory_estimate

ROOT = Path(__file__).parents[2]
#: configuration -> processes that it is written for
CONFIGS = {
    "sd35m_sft": 1,
    "sd35m_counting": 4,
    "sd35m_counting_fast": 8,
    "sd35m_counting_guard": 8,
    "sd35m_counting_nft": 8,
    "sd35m_counting_dpo": 8,
    "sd35l_counting_fast": 8,
    "flux1_dev_counting_fast": 8,
    "flux2_klein_base_counting_nft": 8,
}


@cache
def generator(model: str) -> TrainableGenerator:
    """As training loads it, but without weights.

    Args:
        model: the configuration's section, as JSON.
    """
    config = ModelConfig.model_validate_json(model)
    with torch.device("meta"):
        pipeline = FULL_SIZE[config.path]()
        kind = TRAINABLE[type(pipeline).__name__]
        assert issubclass(kind, TrainableGenerator)
        for part in kind.TEXT_ENCODERS:
            getattr(pipeline, part).to(getattr(torch, config.encoder_dtype))
        pipeline.transformer.requires_grad_(False).to(getattr(torch, config.weights_dtype))
        found = kind(pipeline, height=config.height, width=config.width, max_sequence_length=config.max_sequence_length)
        found.add_lora(config.lora_rank, config.lora_alpha, config.lora_targets)
    return found


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_documented_memory(name: str) -> None:
    config = load_config(TrainConfig, ROOT / f"configs/train/{name}.yaml", [])
    in_memory = config.model.model_copy(update={"gradient_checkpointing": False, "embeddings_cache": None})
    found = memory_estimate(config, generator(in_memory.model_dump_json()), CONFIGS[name])
    parts = (found.weights, found.trained, found.rollouts, found.activations)
    cells = [*parts, sum(parts), found.weights + found.encoders if found.encoders else 0]
    row = " | ".join([f"`{name}.yaml`", str(CONFIGS[name]), *(f"{size / 2**30:.1f}" if size else "" for size in cells)])
    assert f"| {row} |" in (ROOT / "docs/full_size.md").read_text().splitlines()
