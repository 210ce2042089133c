"""Drawing images from a model of either kind: along a velocity, or by filling in masked tokens."""

from collections.abc import Sequence

import torch

from generators.embeddings import PromptEmbeddings
from generators.opened import OpenedPipeline
from generators.showo.trainable import ShowoGenerator
from generators.trainable import TrainableGenerator
from trainer.flow_sde import sde_step
from trainer.sampling import StepPlan, Trajectory, sample_trajectory
from trainer.stochastic_step import StochasticStep


def draw(
    generator: OpenedPipeline,
    prompts: PromptEmbeddings,
    negative: PromptEmbeddings,
    *,
    num_steps: int,
    guidance_scale: float,
    generators: Sequence[torch.Generator],
    starts: Sequence[torch.Generator] | None = None,
    plan: StepPlan | None = None,
    step: StochasticStep = sde_step,
) -> Trajectory:
    """One image for each prompt; `decode` of the generator makes pictures of `Trajectory.clean`.

    Args:
        generator: the model.
        prompts: embeddings (batch).
        negative: of the empty prompt (batch 1).
        num_steps: of the sampler.
        guidance_scale: as the model's own pipeline counts it.
        generators: one a sample, its source of chance.
        starts: one a sample, for its initial noise alone; only for models with a velocity, as are the next two.
        plan: where noise is added and what is kept.
        step: how noise is added.
    """
    if isinstance(generator, ShowoGenerator):
        codes = generator.draw(
            prompts, negative, num_steps=num_steps, guidance_scale=guidance_scale, generators=generators
        )
        return Trajectory.without_path(codes)
    assert isinstance(generator, TrainableGenerator)
    return sample_trajectory(
        generator,
        prompts,
        negative,
        sigmas=generator.sigmas(num_steps),
        guidance_scale=guidance_scale,
        generators=generators,
        starts=starts,
        plan=plan,
        step=step,
    )
