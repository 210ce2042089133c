"""The training configuration: one YAML file, every field with its meaning; what it does not know it refuses."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from assay.config import ConfigModel
from assay.rewards import RewardConfig
from trainer.algorithms.flow_grpo import FlowGrpoConfig


class ModelConfig(ConfigModel):
    """Which generator, and at which size it works."""

    path: str = Field(description="hub id or folder of a StableDiffusion3Pipeline")
    height: int = Field(512, ge=16, description="pixels")
    width: int = Field(512, ge=16, description="pixels")
    max_sequence_length: int = Field(128, ge=0, le=512, description="T5 tokens a prompt")
    encoder_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    cold_start_lora: str | None = Field(None, description="LoRA to fuse first; the KL reference then has it too")
    lora_rank: int = Field(32, ge=1)
    lora_alpha: int = Field(64, ge=1)


class PromptsConfig(ConfigModel):
    """GenEval JSONL files."""

    train: Path
    test: Path


class SamplingConfig(ConfigModel):
    """How rollouts are drawn. Images per epoch = groups_per_epoch * group_size."""

    num_steps: int = Field(10, ge=2)
    guidance_scale: float = Field(4.5, ge=1, description="1 = no guidance")
    noise_level: float = Field(0.7, gt=0, description="eta of the stochastic sampler")
    group_size: int = Field(24, ge=2, description="images per prompt and group")
    groups_per_epoch: int = Field(48, ge=1, description="over all processes")
    micro_batch_size: int = Field(9, ge=1, description="images sampled, scored and trained at once, per process")


class EvaluationConfig(ConfigModel):
    """Held-out evaluation with the deterministic sampler."""

    num_steps: int = Field(40, ge=1)
    guidance_scale: float = Field(4.5, ge=1)
    num_images: int = Field(512, ge=1, description="(prompt, seed) pairs, the same at every evaluation")
    batch_size: int = Field(16, ge=1)
    every_epochs: int = Field(20, ge=0, description="0: only before and after")
    seed: int = 0
    accuracy: str = Field("counting/strict_correct", description="component reported as accuracy: reward/component")
    gallery_prompts: int = Field(16, ge=1, description="pairs whose pictures are kept and shown in the gallery")


class OptimizerConfig(ConfigModel):
    """AdamW without a schedule."""

    learning_rate: float = Field(3e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(1e-4, ge=0)
    epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)


class EmaConfig(ConfigModel):
    """Averaged adapter, used for evaluation and for the saved LoRA."""

    enabled: bool = True
    decay: float = Field(0.9, ge=0, lt=1)
    every_steps: int = Field(8, ge=1, description="optimizer steps between updates")


class RunConfig(ConfigModel):
    """Where results go, how long the run lasts, and how it is logged."""

    output: Path
    epochs: int = Field(ge=1)
    seed: int = 42
    save_every_epochs: int = Field(10, ge=1)
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    threads: int | None = Field(None, ge=1, description="torch CPU threads per process; None leaves torch's choice")
    reward_deadline_s: float = Field(600, gt=0, description="total time for the rewards of one micro-batch")
    tls_ca: Path | None = Field(None, description="PEM file of the services' authority; switches TLS on")
    service_wait_s: float = Field(120, gt=0, description="how long to wait for the services at the start")


class TrainConfig(ConfigModel):
    """A whole run."""

    model: ModelConfig
    prompts: PromptsConfig
    sampling: SamplingConfig
    evaluation: EvaluationConfig
    algorithm: FlowGrpoConfig
    optimizer: OptimizerConfig
    ema: EmaConfig
    rewards: list[RewardConfig] = Field(min_length=1)
    run: RunConfig

    @model_validator(mode="after")
    def _arithmetic(self) -> "TrainConfig":
        if self.algorithm.strict_reward and [reward.weight for reward in self.rewards] != [1.0]:
            raise ValueError(
                f"algorithm.strict_reward trains on a total of exactly 1; it needs one reward of weight 1, "
                f"not weights {[reward.weight for reward in self.rewards]}"
            )
        if self.sampling.groups_per_epoch % self.algorithm.optimizer_steps_per_epoch:
            raise ValueError(
                f"sampling.groups_per_epoch is {self.sampling.groups_per_epoch}; it must be a multiple of "
                f"algorithm.optimizer_steps_per_epoch ({self.algorithm.optimizer_steps_per_epoch})"
            )
        return self

    def check_processes(self, num_processes: int) -> None:
        """Raise ValueError unless every process gets the same number of whole groups in every optimizer step."""
        share = num_processes * self.algorithm.optimizer_steps_per_epoch
        if self.sampling.groups_per_epoch % share:
            raise ValueError(
                f"sampling.groups_per_epoch is {self.sampling.groups_per_epoch}; with {num_processes} processes and "
                f"{self.algorithm.optimizer_steps_per_epoch} optimizer steps an epoch it must be a multiple of {share}"
            )
