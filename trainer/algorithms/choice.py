"""From a configuration to its algorithm."""

from typing import cast

import torch

from assay.errors import ConfigError
from generators.embeddings import PromptEmbeddings
from trainer.algorithms.algorithm import AdaptedModel, Algorithm
from trainer.algorithms.dpo import Dpo, DpoConfig
from trainer.algorithms.flow_grpo import FlowGrpo
from trainer.algorithms.grpo_guard import GrpoGuard, GrpoGuardConfig
from trainer.algorithms.masked_tokens import MaskedModel
from trainer.algorithms.nft import Nft, NftConfig
from trainer.algorithms.rwr import Rwr, RwrConfig
from trainer.algorithms.sft import FlowMatching, SftConfig
from trainer.algorithms.showo_dpo import ShowoDpo, ShowoDpoConfig
from trainer.algorithms.showo_sft import ShowoSft, ShowoSftConfig
from trainer.config import TrainConfig

#: Given to models that embed guidance, where no rollouts are sampled: what FLUX.1-dev is trained with by its users.
GUIDANCE_WITHOUT_SAMPLER = 1.0


def make_algorithm(
    config: TrainConfig,
    model: AdaptedModel | MaskedModel,
    negative: PromptEmbeddings,
    parameters: list[torch.nn.Parameter],
) -> Algorithm:
    """Set up `config.algorithm`.

    Args:
        config: the whole configuration.
        model: the generator, with its adapter, of the algorithm's kind.
        negative: embedding of the empty prompt.
        parameters: the adapter's.
    """
    algorithm, sampling = config.algorithm, config.sampling
    guidance_scale = sampling.guidance_scale if sampling is not None else GUIDANCE_WITHOUT_SAMPLER
    match algorithm:
        case ShowoDpoConfig():
            return ShowoDpo(algorithm, cast(MaskedModel, model), negative, parameters)
        case ShowoSftConfig():
            return ShowoSft(algorithm, cast(MaskedModel, model))
    model = cast(AdaptedModel, model)
    match algorithm:
        case NftConfig():
            return Nft(algorithm, model, parameters, guidance_scale)
        case DpoConfig():
            return Dpo(algorithm, model, parameters, guidance_scale)
        case RwrConfig():
            return Rwr(algorithm, model, guidance_scale)
        case SftConfig():
            return FlowMatching(algorithm, model, guidance_scale)
    if sampling is None:
        raise ConfigError(f"algorithm {algorithm.name} needs sampling")
    kind = GrpoGuard if isinstance(algorithm, GrpoGuardConfig) else FlowGrpo
    return kind(
        algorithm,
        model,
        negative,
        num_steps=sampling.num_steps,
        guidance_scale=guidance_scale,
        noise_level=sampling.noise_level,
        sde_type=sampling.sde_type,
    )
