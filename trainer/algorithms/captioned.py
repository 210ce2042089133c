"""Captioned pictures in a file: what supervised fine-tuning learns from, whatever the model and the loss."""

from pathlib import Path

from pydantic import Field

from assay.config import ConfigModel


class CaptionedConfig(ConfigModel):
    """Fields of all algorithms that learn from captioned pictures."""

    data: Path = Field(description="JSONL with the fields `image` (a path, relative to the file) and `prompt`")
    optimizer_steps_per_epoch: int = Field(50, ge=1)
    images_per_step: int = Field(32, ge=1, description="images behind one optimizer step, over all processes")
    micro_batch_size: int = Field(16, ge=1, description="images trained on at once, per process")
    prompt_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of prompts replaced by the empty one, which guidance needs"
    )
