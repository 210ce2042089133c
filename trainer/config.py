"""The training configuration: one YAML file, every field with its meaning; what it does not know it refuses."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from assay.client_tls import ClientTls
from assay.config import ConfigModel
from assay.rewards import RewardConfig
from trainer.advantages import AdvantagesConfig
from trainer.algorithms.captioned import CaptionedConfig
from trainer.algorithms.dpo import DpoConfig
from trainer.algorithms.flow_grpo import FlowGrpoConfig
from trainer.algorithms.grpo_guard import GrpoGuardConfig
from trainer.algorithms.masked_tokens import MaskedTokensConfig
from trainer.algorithms.nft import NftConfig
from trainer.algorithms.pairs import PairsConfig
from trainer.algorithms.rwr import RwrConfig
from trainer.algorithms.sft import SftConfig
from trainer.algorithms.showo_dpo import ShowoDpoConfig
from trainer.algorithms.showo_sft import ShowoSftConfig
from trainer.sampling import SamplingConfig, Solver

AlgorithmConfig = Annotated[
    FlowGrpoConfig | GrpoGuardConfig | NftConfig | DpoConfig | RwrConfig | SftConfig | ShowoDpoConfig | ShowoSftConfig,
    Field(discriminator="name"),
]


class ModelConfig(ConfigModel):
    """Which generator, at which size it works, and what of it is trained."""

    path: str = Field(description="hub id or folder of a pipeline: SD3 and SD3.5, FLUX.1-dev, FLUX.2 klein, Show-o")
    height: int = Field(512, ge=16, description="pixels")
    width: int = Field(512, ge=16, description="pixels")
    max_sequence_length: int = Field(128, ge=0, le=512, description="tokens a prompt (of SD3: T5's)")
    encoder_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    weights_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the frozen transformer; what is trained is float32 at any rate"
    )
    train_all: bool = Field(
        False, description="train every weight instead of a LoRA; for Show-o, with weights in float32"
    )
    cold_start_lora: str | None = Field(None, description="LoRA to fuse first; the KL reference then has it too")
    lora_rank: int = Field(32, ge=1)
    lora_alpha: int = Field(64, ge=1)
    lora_targets: tuple[str, ...] | None = Field(None, description="module names; None: the attention projections")
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, a third more time")
    compile: bool = Field(False, description="torch.compile the transformer")
    embeddings_cache: Path | None = Field(
        None, description="folder: all prompts are encoded before the run starts, and the text encoders are freed"
    )


class PromptsConfig(ConfigModel):
    """GenEval JSONL files."""

    train: Path | None = Field(None, description="not used by algorithms that learn from `algorithm.data`")
    test: Path | None = Field(None, description="for the held-out evaluation")


class EvaluationConfig(ConfigModel):
    """Held-out evaluation with the deterministic sampler (of Show-o: its own, from the same seeds)."""

    num_steps: int = Field(40, ge=1)
    guidance_scale: float = Field(4.5, ge=0, description="1 = no guidance; of Show-o 0, for it counts from there")
    solver: Solver = Field("euler", description="as of `sampling`")
    num_images: int = Field(512, ge=1, description="(prompt, seed) pairs, the same at every evaluation")
    batch_size: int = Field(16, ge=1)
    every_epochs: int = Field(20, ge=0, description="0: only before and after")
    seed: int = 0
    accuracy: str = Field("counting/strict_correct", description="component reported as accuracy: reward/component")
    gallery_prompts: int = Field(16, ge=1, description="pairs whose pictures are kept and shown in the gallery")
    rewards: list[RewardConfig] = Field(
        default_factory=list,
        description="judges that training does not see; what it gains on `rewards` and not on these is reward hacking",
    )
    keep_best: bool = Field(True, description="keep the LoRA of the best accuracy in `best/`")
    patience: int | None = Field(
        None, ge=1, description="stop after so many evaluations without a better accuracy; None: never"
    )


class OptimizerConfig(ConfigModel):
    """AdamW. Biases, norms and embeddings do not decay."""

    learning_rate: float = Field(3e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(1e-4, ge=0)
    epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    schedule: Literal["constant", "cosine"] = Field("constant", description="cosine: down to 0 at the run's last epoch")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the run's optimizer steps in which the rate rises")

    @property
    def looks_ahead(self) -> bool:
        """Whether the learning rate depends on how long the run is to be."""
        return self.schedule != "constant" or self.warmup > 0


class EmaConfig(ConfigModel):
    """Averaged adapter, used for evaluation and for the saved LoRA."""

    enabled: bool = True
    decay: float = Field(0.9, ge=0, lt=1)
    every_steps: int = Field(8, ge=1, description="optimizer steps between updates")


class RunConfig(ClientTls):
    """Where results go, how long the run lasts, and how it is logged."""

    output: Path
    epochs: int = Field(ge=1)
    seed: int = 42
    save_every_epochs: int = Field(10, ge=1)
    mixed_precision: Annotated[
        Literal["no", "fp16", "bf16"], BeforeValidator(lambda value: "no" if value is False else value)
    ] = "no"  # in YAML, no without quotes is false
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    threads: int | None = Field(None, ge=1, description="torch CPU threads per process; None leaves torch's choice")
    reward_deadline_s: float = Field(600, gt=0, description="total time for the rewards of one micro-batch")
    service_wait_s: float = Field(120, gt=0, description="how long to wait for the services at the start")


class TrainConfig(ConfigModel):
    """A whole run. `trainer.arithmetic` checks that its numbers go together."""

    model: ModelConfig
    prompts: PromptsConfig = PromptsConfig()
    sampling: SamplingConfig | None = Field(None, description="not used by algorithms that learn from `algorithm.data`")
    advantages: AdvantagesConfig = AdvantagesConfig()
    algorithm: AlgorithmConfig
    evaluation: EvaluationConfig | None = None
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig = EmaConfig()
    rewards: list[RewardConfig] = Field(default_factory=list, description="what rollouts are scored by")
    run: RunConfig

    @property
    def data(self) -> Path | None:
        """The file that an offline algorithm learns from; None where it learns from rollouts."""
        return self.algorithm.data if isinstance(self.algorithm, CaptionedConfig | PairsConfig) else None

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> "TrainConfig":
        if self.data is None:
            wanted = {"sampling": self.sampling, "prompts.train": self.prompts.train, "rewards": self.rewards}
            if missing := [name for name, value in wanted.items() if not value]:
                raise ValueError(f"algorithm {self.algorithm.name} learns from rollouts: {', '.join(missing)} missing")
        if self.evaluation is not None:
            if self.prompts.test is None:
                raise ValueError("evaluation needs prompts.test")
            if not (self.rewards or self.evaluation.rewards):
                raise ValueError("evaluation needs rewards, or evaluation.rewards")
        names = [reward.name for reward in [*self.rewards, *(self.evaluation.rewards if self.evaluation else [])]]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rewards named {', '.join(doubled)} occur twice; rewards and evaluation.rewards differ")
        return self

    @model_validator(mode="after")
    def _strict_rewards(self) -> "TrainConfig":
        strict = self.advantages.strict_reward
        if strict and [reward.weight for reward in self.rewards] != [1.0]:
            raise ValueError(
                f"advantages.strict_reward trains on a total of exactly 1; it needs one reward of weight 1, "
                f"not weights {[reward.weight for reward in self.rewards]}"
            )
        if strict and self.advantages.normalise == "each":
            raise ValueError("advantages.strict_reward is made of the total; it goes with normalise: total")
        return self

    @model_validator(mode="after")
    def _precisions_go_together(self) -> "TrainConfig":
        if self.model.weights_dtype == "bfloat16" and self.run.mixed_precision == "fp16":
            raise ValueError("run.mixed_precision = fp16; allowed with model.weights_dtype = bfloat16: no, bf16")
        return self

    @model_validator(mode="after")
    def _fits_the_kind_of_model(self) -> "TrainConfig":
        """Show-o counts guidance from 0, the others from 1: the one's numbers mean something else to the other."""
        masked = isinstance(self.algorithm, MaskedTokensConfig)
        for name, section in (("sampling", self.sampling), ("evaluation", self.evaluation)):
            if section is None:
                continue
            if masked and "guidance_scale" not in section.model_fields_set:
                raise ValueError(
                    f"{name}.guidance_scale is missing; Show-o counts it from 0: 1.75 is usual at 256 pixels, 5 at 512"
                )
            if not masked and section.guidance_scale < 1:
                raise ValueError(
                    f"{name}.guidance_scale = {section.guidance_scale}; allowed with algorithm {self.algorithm.name}: "
                    "at least 1, which is no guidance"
                )
        if self.model.train_all and not masked:
            raise ValueError(f"model.train_all with algorithm {self.algorithm.name}; allowed with showo_dpo, showo_sft")
        if self.model.train_all and self.model.weights_dtype != "float32":
            raise ValueError("model.weights_dtype = bfloat16; allowed with model.train_all: float32")
        if isinstance(self.algorithm, ShowoDpoConfig) and self.algorithm.guidance is not None and not self.rewards:
            raise ValueError("algorithm.guidance needs rewards: the verifier that scores the images of a pair")
        return self

    @model_validator(mode="after")
    def _algorithm_fits_sampler(self) -> "TrainConfig":
        if self.sampling is None or not isinstance(self.algorithm, FlowGrpoConfig):
            return self
        if self.sampling.solver != "euler":
            raise ValueError(
                f"sampling.solver = {self.sampling.solver}; allowed with algorithm {self.algorithm.name}, whose steps "
                "have noise: euler"
            )
        if self.sampling.sde_type == "cps" and self.sampling.noise_level > 1:
            raise ValueError(f"sampling.noise_level is {self.sampling.noise_level}; at most 1 with sde_type: cps")
        if self.algorithm.window is not None:
            self.algorithm.window.check(self.sampling.num_steps)
        if isinstance(self.algorithm, GrpoGuardConfig) and self.sampling.sde_type != "flow":
            raise ValueError(f"sampling.sde_type = {self.sampling.sde_type}; allowed with grpo_guard: flow")
        return self

    @model_validator(mode="after")
    def _nothing_is_idle(self) -> "TrainConfig":
        """A field that is written down must do something."""
        algorithm, idle = self.algorithm, []
        if self.sampling is not None and not isinstance(algorithm, FlowGrpoConfig):
            named = self.sampling.model_fields_set & {"noise_level", "sde_type", "same_latent"}
            idle += [f"sampling.{field} with algorithm {algorithm.name}" for field in sorted(named)]
        if isinstance(algorithm, FlowGrpoConfig) and algorithm.window is not None:
            named = algorithm.model_fields_set & {"timestep_strategy", "timestep_fraction"}
            idle += [f"algorithm.{field} with algorithm.window" for field in sorted(named)]
        if isinstance(algorithm, PairsConfig) and algorithm.data is None and algorithm.pairs_per_epoch is not None:
            idle.append("algorithm.pairs_per_epoch without algorithm.data")
        if isinstance(algorithm, PairsConfig) and algorithm.data and "sample_with" in algorithm.model_fields_set:
            idle.append("algorithm.sample_with with algorithm.data")
        if isinstance(algorithm, MaskedTokensConfig):
            named = self.model.model_fields_set & {"encoder_dtype", "compile", "embeddings_cache"}
            idle += [f"model.{field} with algorithm {algorithm.name}" for field in sorted(named)]
            sections = (("sampling", self.sampling), ("evaluation", self.evaluation))
            named = {name for name, section in sections if section and "solver" in section.model_fields_set}
            idle += [f"{name}.solver with algorithm {algorithm.name}" for name in sorted(named)]
        if self.model.train_all:
            named = self.model.model_fields_set & {"lora_rank", "lora_alpha", "lora_targets"}
            idle += [f"model.{field} with model.train_all" for field in sorted(named)]
        if self.evaluation is not None and self.evaluation.patience and not self.evaluation.every_epochs:
            idle.append("evaluation.patience with evaluation.every_epochs = 0")
        if idle:
            raise ValueError(f"these would do nothing, and are not allowed: {'; '.join(idle)}")
        return self
