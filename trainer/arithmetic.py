"""What a configuration amounts to: groups, images, passes, optimizer steps and reward calls of an epoch.

Printed before a run starts. Numbers that do not go together are refused, with the nearest that do.
"""

from dataclasses import dataclass

from assay.client import BATCH_ITEMS
from assay.errors import ConfigError
from trainer.algorithms.captioned import CaptionedConfig
from trainer.algorithms.flow_grpo import FlowGrpoConfig
from trainer.algorithms.masked_tokens import MaskedTokensConfig
from trainer.algorithms.pairs import PairsConfig
from trainer.algorithms.showo_dpo import ShowoDpoConfig
from trainer.config import TrainConfig


@dataclass(frozen=True)
class Arithmetic:
    """Of one epoch, over all processes unless it says otherwise.

    Args:
        processes: how many train.
        groups: groups of samples that share a prompt; pairs, for DPO from a file; 0 for images from a folder.
        images: sampled, or read from `algorithm.data`.
        optimizer_steps: in the epoch.
        micro_batches: per process.
        sampling_passes: forward passes of one image through the transformer while sampling.
        training_passes: (noise level, step or mask) of one image in training; each a forward and a backward pass, and a
            forward pass more for each reference or second branch.
        reward_calls: RPCs, without retries.
        trained_at: what there are several of in training.
    """

    processes: int
    groups: int
    images: int
    optimizer_steps: int
    micro_batches: int
    sampling_passes: int
    training_passes: int
    reward_calls: int
    trained_at: str = "at {} noise levels"

    def __str__(self) -> str:
        processes = f"{self.processes} process{'es' if self.processes > 1 else ''}"
        made_of = (
            f"{self.groups} groups of {self.images // self.groups}" if self.sampling_passes else "from algorithm.data"
        )
        lines = [
            f"an epoch: {self.images} images, {made_of}; {self.optimizer_steps} optimizer steps of "
            f"{self.images // self.optimizer_steps} images",
            f"on {processes}, each {self.micro_batches} micro-batches; an image takes {self.sampling_passes} forward "
            f"passes to sample, and is trained {self.trained_at.format(self.training_passes)}",
        ]
        return "\n".join([*lines, f"{self.reward_calls} reward calls"] if self.reward_calls else lines)


def arithmetic(config: TrainConfig, num_processes: int, *, second_branch: bool = True) -> Arithmetic:
    """Work out an epoch.

    Args:
        config: the whole configuration.
        num_processes: how many train.
        second_branch: whether guidance takes a pass of its own; not with a model that embeds it.

    Raises:
        ConfigError: samples cannot be shared out evenly; names the field, its value, and the nearest possible ones.
    """
    if config.data is not None:
        return _of_data(config, num_processes)
    return _of_rollouts(config, num_processes, second_branch)


def unmoved_average(config: TrainConfig) -> str | None:
    """What to say where the run is so short that its averaged weights, which are evaluated and saved, never move."""
    steps = config.run.epochs * config.algorithm.optimizer_steps_per_epoch
    if not config.ema.enabled or steps >= config.ema.every_steps:
        return None
    return (
        f"the averaged weights, which are evaluated and saved, move every {config.ema.every_steps} optimizer steps, "
        f"and the run has {steps}: they will stay as they begin. ema.every_steps=1 lets them follow, "
        "ema.enabled=false saves the last ones"
    )


def _of_rollouts(config: TrainConfig, processes: int, second_branch: bool) -> Arithmetic:
    sampling, algorithm = config.sampling, config.algorithm
    assert sampling is not None
    steps = algorithm.optimizer_steps_per_epoch
    _check_multiple(
        "sampling.groups_per_epoch",
        sampling.groups_per_epoch,
        processes * steps,
        f"with {_processes(processes)} and {steps} optimizer steps an epoch",
    )
    images = sampling.groups_per_epoch * sampling.group_size
    share = images // processes // steps
    micro_batches = steps * -(-share // sampling.micro_batch_size)
    calls = processes * steps * sum(_calls(size) for size in _sizes(share, sampling.micro_batch_size))
    return Arithmetic(
        processes=processes,
        groups=sampling.groups_per_epoch,
        images=images,
        optimizer_steps=steps,
        micro_batches=micro_batches,
        sampling_passes=sampling.num_steps * (2 if second_branch and _is_guided(config) else 1),
        training_passes=(
            algorithm.num_trained_steps(sampling.num_steps)
            if isinstance(algorithm, FlowGrpoConfig)
            else algorithm.draws
        ),
        reward_calls=calls * _num_scorers(config),
        **_wording(config),
    )


def _of_data(config: TrainConfig, processes: int) -> Arithmetic:
    algorithm = config.algorithm
    steps = algorithm.optimizer_steps_per_epoch
    calls = 0
    if isinstance(algorithm, CaptionedConfig):
        _check_multiple(
            "algorithm.images_per_step", algorithm.images_per_step, processes, f"with {_processes(processes)}"
        )
        groups, images, size = 0, steps * algorithm.images_per_step, algorithm.micro_batch_size
    else:
        assert isinstance(algorithm, PairsConfig)
        if algorithm.pairs_per_epoch is None:
            raise ConfigError("algorithm.pairs_per_epoch is missing: how many pairs of algorithm.data an epoch takes")
        why = f"with {_processes(processes)} and {steps} optimizer steps an epoch"
        _check_multiple("algorithm.pairs_per_epoch", algorithm.pairs_per_epoch, processes * steps, why)
        groups, images, size = algorithm.pairs_per_epoch, 2 * algorithm.pairs_per_epoch, 2 * algorithm.micro_batch_pairs
        if isinstance(algorithm, ShowoDpoConfig) and algorithm.guidance is not None:
            share = images // steps // processes
            calls = processes * steps * sum(_calls(own) for own in _sizes(share, size)) * _num_scorers(config)
    return Arithmetic(
        processes=processes,
        groups=groups,
        images=images,
        optimizer_steps=steps,
        micro_batches=steps * -(-images // steps // processes // size),
        sampling_passes=0,
        training_passes=algorithm.draws,
        reward_calls=calls,
        **_wording(config),
    )


def _wording(config: TrainConfig) -> dict[str, str]:
    return {"trained_at": "under {} masks"} if isinstance(config.algorithm, MaskedTokensConfig) else {}


def _is_guided(config: TrainConfig) -> bool:
    """Whether sampling takes a second branch: Show-o counts guidance from 0, the others from 1."""
    assert config.sampling is not None
    return config.sampling.guidance_scale > (0 if isinstance(config.algorithm, MaskedTokensConfig) else 1)


def _num_scorers(config: TrainConfig) -> int:
    return len({(reward.targets, reward.scorer) for reward in config.rewards})


def _check_multiple(field: str, value: int, unit: int, why: str) -> None:
    if value % unit:
        below, above = value // unit * unit, -(-value // unit) * unit
        nearest = f"{below} or {above}" if below else f"{above}"
        raise ConfigError(f"{field} is {value}; {why} it must be a multiple of {unit}: {nearest}")


def _sizes(number: int, largest: int) -> list[int]:
    """Sizes of the parts that `number` is cut into."""
    whole, rest = divmod(number, largest)
    return [largest] * whole + ([rest] if rest else [])


def _calls(images: int) -> int:
    return -(-images // BATCH_ITEMS)


def _processes(number: int) -> str:
    return "one process" if number == 1 else f"{number} processes"
