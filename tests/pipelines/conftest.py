"""A tiny checkpoint for all tests of batch jobs."""

from pathlib import Path

import pytest
from diffusers import Flux2KleinPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from tiny_klein import save_tiny_klein


@pytest.fixture(scope="session")
def tiny_klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_klein(tmp_path_factory.mktemp("checkpoints") / "flux2-klein-4B")


@pytest.fixture
def tiny_lora(tiny_klein: Path, tmp_path: Path) -> Path:
    """A LoRA of the tiny FLUX.2 klein, which fits no other model."""
    pipeline = Flux2KleinPipeline.from_pretrained(tiny_klein)
    pipeline.transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k"]))
    weights = get_peft_model_state_dict(pipeline.transformer)
    Flux2KleinPipeline.save_lora_weights(tmp_path / "lora-of-klein", transformer_lora_layers=weights)
    return tmp_path / "lora-of-klein"
