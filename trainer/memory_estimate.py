"""How much memory a run needs: known as soon as the model is loaded, and printed before anything is on the device."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

from torch import nn

from generators.opened import OpenedPipeline
from generators.showo.transformer import Showo
from generators.trainable import TrainableGenerator
from trainer.algorithms.captioned import CaptionedConfig
from trainer.algorithms.flow_grpo import FlowGrpoConfig
from trainer.algorithms.grpo_guard import GrpoGuardConfig
from trainer.algorithms.masked_tokens import MaskedTokensConfig
from trainer.algorithms.pairs import PairsConfig
from trainer.config import TrainConfig

#: Bytes that a transformer layer keeps for the backward pass, for each token and unit of width: 34 in half precision
#: with an attention that keeps no scores, twice that in float32; with checkpointing its input alone
#: (arXiv 2205.05198, section 4).
ACTIVATION_BYTES, CHECKPOINTED_BYTES = 34, 2
#: Of each trained number, float32: gradient, two moments of Adam, an average and an older policy.
TRAINED_BYTES = 20
#: Of a number in latents and embeddings, float32, and of an id, int64.
NUMBER_BYTES, ID_BYTES = 4, 8


@dataclass(frozen=True)
class MemoryEstimate:
    """What one process needs on its device, in bytes, before any sharding. All but activations exactly.

    Args:
        weights: of the model; text encoders among them where they stay.
        trained: gradients, moments and copies of what is trained.
        rollouts: an epoch's samples until they are trained on: latents, the kept steps of their paths, their prompts'
            embeddings; two epochs' where one is sampled ahead. Without reference pictures.
        activations: of a training pass, roughly.
        encoders: text encoders that are freed when all prompts are encoded, before the rest is needed.
    """

    weights: int
    trained: int
    rollouts: int
    activations: int
    encoders: int

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "trained state": self.trained,
            "rollouts": self.rollouts,
            "activations, roughly": self.activations,
        }
        listed = "; ".join(f"{name}: {_gib(size)}" for name, size in parts.items() if size)
        total = f"memory of a process before sharding, in GiB: {listed}; together {_gib(sum(parts.values()))}"
        if not self.encoders:
            return total
        return f"{total}; while prompts are encoded: {_gib(self.weights + self.encoders)}"


def memory_estimate(config: TrainConfig, generator: OpenedPipeline, processes: int) -> MemoryEstimate:
    """Work out the memory of a run.

    Args:
        config: the whole configuration.
        generator: with its LoRA, wherever it lies.
        processes: how many train.
    """
    transformer = generator.transformer
    encoders = _size(getattr(generator.pipeline, name, None) for name in generator.TEXT_ENCODERS)
    freed = encoders if config.model.embeddings_cache is not None else 0
    kept = CHECKPOINTED_BYTES if config.model.gradient_checkpointing else ACTIVATION_BYTES
    in_full = 2 if config.run.mixed_precision == "no" and config.model.weights_dtype == "float32" else 1
    tokens = generator.image_tokens + generator.prompt_tokens
    activations = _micro_batch(config, generator) * tokens * _width(transformer) * _layers(transformer) * kept * in_full
    return MemoryEstimate(
        weights=_size(generator.pipeline.components.values()) - freed,
        # Values count among the weights; the rest: gradient, two moments, and as a rule a copy or two of the values.
        trained=TRAINED_BYTES * sum(p.numel() for p in transformer.parameters() if p.requires_grad),
        rollouts=rollout_bytes(config, processes, _latent_bytes(generator), _prompt_bytes(generator)),
        activations=activations,
        encoders=freed,
    )


def rollout_bytes(config: TrainConfig, processes: int, latent_bytes: int, prompt_bytes: int) -> int:
    """What a process keeps of its samples, which lie on its device until they are trained on.

    Args:
        latent_bytes: of the latents of one image.
        prompt_bytes: of the embeddings of one prompt; each sample has its own copy.
    """
    sampling, algorithm = config.sampling, config.algorithm
    if config.data is not None or sampling is None:
        return 0
    steps, states = 0, 0
    if isinstance(algorithm, FlowGrpoConfig):
        steps = algorithm.num_trained_steps(sampling.num_steps)
        states = 3 if isinstance(algorithm, GrpoGuardConfig) else 2  # before and after a step; and the mean between
    sample = latent_bytes * (1 + states * steps) + NUMBER_BYTES * steps + prompt_bytes
    epochs = 2 if sampling.one_step_off_policy else 1
    return epochs * sampling.groups_per_epoch * sampling.group_size // processes * sample


def _latent_bytes(generator: OpenedPipeline) -> int:
    if isinstance(generator, TrainableGenerator):
        return NUMBER_BYTES * prod(generator.latent_shape)
    return ID_BYTES * generator.image_tokens


def _prompt_bytes(generator: OpenedPipeline) -> int:
    if not isinstance(generator, TrainableGenerator):
        return ID_BYTES * generator.prompt_tokens
    config = generator.transformer.config
    pooled = getattr(config, "pooled_projection_dim", 0)
    return int(NUMBER_BYTES * (generator.prompt_tokens * config.joint_attention_dim + pooled))


def _micro_batch(config: TrainConfig, generator: OpenedPipeline) -> int:
    """Rows of the largest training pass."""
    masks = config.algorithm.draws if isinstance(config.algorithm, MaskedTokensConfig) else 1  # in one pass together
    if isinstance(config.algorithm, CaptionedConfig):
        return config.algorithm.micro_batch_size * masks
    if isinstance(config.algorithm, PairsConfig):
        return 2 * config.algorithm.micro_batch_pairs * masks
    assert config.sampling is not None
    two = config.sampling.guidance_scale > 1 and isinstance(config.algorithm, FlowGrpoConfig)
    return config.sampling.micro_batch_size * (2 if two and has_second_branch(generator) else 1)


def has_second_branch(generator: OpenedPipeline) -> bool:
    """Whether guidance takes a pass of its own; not with a model that embeds it."""
    return not (isinstance(generator, TrainableGenerator) and generator.embeds_guidance)


def _width(transformer: Any) -> int:
    if isinstance(transformer, Showo):
        return int(transformer.showo.config.hidden_size)
    return int(transformer.config.num_attention_heads * transformer.config.attention_head_dim)


def _layers(transformer: Any) -> int:
    if isinstance(transformer, Showo):
        return int(transformer.showo.config.num_hidden_layers)
    return int(transformer.config.num_layers + getattr(transformer.config, "num_single_layers", 0))


def _size(parts: Iterable[Any]) -> int:
    """Of the weights of those parts that are modules, and of their tables (SD3.5-M's of positions: 0.8 GiB)."""
    modules = [part for part in parts if isinstance(part, nn.Module)]
    tensors = (tensor for module in modules for tensor in chain(module.parameters(), module.buffers()))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
