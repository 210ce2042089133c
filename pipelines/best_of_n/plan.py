"""Units of a best-of-N run: a prompt with all its images."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.best_of_n.settings import BestOfNSettings
from pipelines.engine.unit import Unit, stable_seed
from pipelines.evaluate.prompts import PromptLine
from pipelines.pipeline_arguments import pipeline_arguments

STAGE = "best-of-n"


def plan_units(
    lines: Sequence[PromptLine], settings: BestOfNSettings, model_digest: str, fingerprints: Mapping[str, str]
) -> list[Unit]:
    """One a prompt.

    Args:
        lines: the prompts.
        settings: of the run.
        model_digest: of the weights that draw.
        fingerprints: of the verifier's scorers.
    """
    return [_unit(line, settings, model_digest, fingerprints) for line in lines]


def candidate_seed(unit: Unit, image: int, candidate: int) -> int:
    """Of the noise of a candidate; the same whoever chooses among them, and in a larger search."""
    return stable_seed("candidate", unit.inputs["seed"], unit.item, image, candidate)


def _unit(line: PromptLine, settings: BestOfNSettings, model_digest: str, fingerprints: Mapping[str, str]) -> Unit:
    item = f"{line.index:05d}"
    inputs: dict[str, Any] = {
        "metadata": line.metadata,
        "model": model_digest,
        "dtype": settings.dtype,
        "num_images": settings.eval_num,
        "seed": settings.seed,
        "keep_candidates": settings.keep_candidates,
        "reward_model": settings.reward_model,
        **sampling_arguments(settings),
    }
    if settings.reward_model != "none":
        inputs |= {"num_candidates": settings.search_num, "verifier": dict(fingerprints)}
    if settings.reward_model == "parm":
        inputs["parm"] = settings.parm.model_dump()
    return Unit(
        item=item,
        variant=settings.variant,
        stage=STAGE,
        folder=f"{settings.variant}/{item}",
        inputs=inputs,
        locations={"problem": line.problem},
    )


def sampling_arguments(settings: BestOfNSettings) -> dict[str, Any]:
    """See `pipelines.pipeline_arguments`; for Show-o with `temperature_carry` besides."""
    arguments = pipeline_arguments(settings, settings.generation_timesteps)
    # A pipeline of diffusers would not know it.
    return {**arguments, "temperature_carry": True} if settings.temperature_carry else arguments
