"""Settings of fine-tuning a vision-language model; what it does not know, or what would do nothing, it refuses.

Rates, warm-up, schedule and clipping are by default those of the published verifiers (Image-Generation-CoT's
`orm_ft.sh`); batch and precision are a run's own.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from assay.config import ConfigModel

Sampling = Annotated[str, Field(pattern=r"^(all|(first|end|random):[0-9]+(\.[0-9]+)?%|(first|end|random):[0-9]+)$")]
Dtype = Literal["float32", "bfloat16", "float16"]


class DataSource(ConfigModel):
    """A file of conversations in LLaVA's JSON form (`.json`: a list; `.jsonl`: a line each), or a part of it."""

    path: Path
    sampling: Sampling = Field("all", description="all, or so many: first:100, end:100, random:100, random:50%")
    images: Path | None = Field(None, description="what image paths are relative to; None: the file's folder")


class LoraBlock(ConfigModel):
    """A LoRA instead of the whole model."""

    rank: int = Field(64, ge=1)
    alpha: int = Field(128, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] | None = Field(None, description="module names; None: every linear layer but the last")


class FineTuningConfig(ConfigModel):
    """A whole run."""

    model: str = Field(description="folder or hub name of an image-text-to-text model with a processor")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = None
    data: tuple[DataSource, ...] = Field(min_length=1, description="what is learnt from, all together")
    held_out: tuple[DataSource, ...] = Field((), description="what the run is measured on")
    held_out_answers: Literal["yes_no", "exact"] = Field(
        "yes_no", description="yes_no reads a probability, as the verifier service does; exact asks for the very words"
    )
    output: Path

    epochs: float | None = Field(None, gt=0, description="passes over the data; or max_steps")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps")
    batch_size: int = Field(8, ge=1, description="conversations in a pass of a process")
    gradient_accumulation: int = Field(1, ge=1, description="passes of an optimizer step")
    learning_rate: float = Field(1e-5, gt=0)
    vision_learning_rate: float | None = Field(None, gt=0, description="of the vision tower; None: learning_rate")
    freeze_vision: bool = Field(False, description="leave the vision tower as it is")
    lora: LoraBlock | None = Field(None, description="None: the whole model")
    warmup_share: float = Field(0.03, ge=0, lt=1, description="of the steps; a cosine follows")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the arithmetic, and of frozen weights below a LoRA; what is trained is float32"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, a third more time")
    seed: int = 42

    save_every_steps: int = Field(500, ge=1)
    save_dtype: Dtype | None = Field(None, description="of the weights in output/model; None: as they are trained")
    evaluate_every_steps: int = Field(0, ge=0, description="0: only before and after")
    evaluation_batch_size: int = Field(16, ge=1, description="questions in a pass of a process")
    log_every_steps: int = Field(10, ge=1)
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    loader_workers: int = Field(0, ge=0, description="processes that read pictures ahead, for each process")
    threads: int | None = Field(None, ge=1, description="torch CPU threads per process; None leaves torch's choice")

    @model_validator(mode="after")
    def _one_length(self) -> "FineTuningConfig":
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give either epochs or max_steps")
        return self

    @model_validator(mode="after")
    def _nothing_is_idle(self) -> "FineTuningConfig":
        """A field that is written down must do something."""
        idle = []
        if self.freeze_vision and self.vision_learning_rate is not None:
            idle.append("vision_learning_rate with freeze_vision")
        if self.lora is not None and self.save_dtype is not None:
            idle.append("save_dtype with lora, which is saved as it is trained")
        named = self.model_fields_set & {"evaluate_every_steps", "evaluation_batch_size", "held_out_answers"}
        if not self.held_out:
            idle += [f"{field} without held_out" for field in sorted(named)]
        if idle:
            raise ValueError(f"these would do nothing, and are not allowed: {'; '.join(idle)}")
        return self
