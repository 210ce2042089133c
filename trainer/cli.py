"""`assay train CONFIG [field=value ...]`: read the configuration, wait for the services, train."""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import InitProcessGroupKwargs

from assay.client_token import token_arguments
from assay.config import load_config
from assay.errors import ConfigError
from assay.rewards import RewardConfig, RewardSet
from assay.tracing import configure_tracing
from trainer.arithmetic import arithmetic
from trainer.config import TrainConfig
from trainer.layout import precision_of_accelerate
from trainer.loop import Trainer

SUPPORTED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.FSDP,
    DistributedType.DEEPSPEED,
)


def train(config_path: Path, overrides: Sequence[str] = ()) -> int:
    """Run one training to its end and return the exit code.

    A token for the services is taken from the environment (`assay.client_token`).

    Raises:
        AssayError: the configuration is wrong, no service answers, or rewards stay away past their deadline.
    """
    configure_tracing("assay-trainer")
    config = load_config(TrainConfig, config_path, overrides)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    accelerator = _accelerator(config)
    try:
        arithmetic(config, accelerator.num_processes)
    except ConfigError as error:
        raise ConfigError(f"{config_path}: {error}") from None
    with ExitStack() as services:
        rewards = services.enter_context(_reward_set(config, config.rewards)) if config.rewards else None
        judges = [rewards] if rewards is not None else []
        if config.evaluation is not None and config.evaluation.rewards:
            judges.append(services.enter_context(_reward_set(config, config.evaluation.rewards)))
        for judge in judges:
            judge.wait_until_ready(config.run.service_wait_s)
        try:
            Trainer(config, accelerator, rewards, judges).run()
        except BaseException:
            # Not `end_training`: it leaves the process group, which waits for processes that wait for this one.
            for tracker in accelerator.trackers:
                tracker.finish()
            raise
        accelerator.end_training()
    return 0


def _reward_set(config: TrainConfig, rewards: Sequence[RewardConfig]) -> RewardSet:
    return RewardSet(
        rewards,
        deadline_s=config.run.reward_deadline_s,
        **token_arguments(),
        **config.run.tls_files,
    )


def _accelerator(config: TrainConfig) -> Accelerator:
    # A process may wait for its rewards as long as their deadline allows, and the others wait for it.
    patience = timedelta(seconds=2 * config.run.reward_deadline_s + 1800)
    accelerator = Accelerator(
        mixed_precision=precision_of_accelerate(config.run.mixed_precision),
        log_with=list(config.run.trackers) or None,
        project_dir=config.run.output,
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=patience)],
    )
    if accelerator.distributed_type not in SUPPORTED:
        raise ConfigError(
            f"accelerate's distributed_type is {accelerator.distributed_type.value}; "
            f"allowed: {', '.join(kind.value for kind in SUPPORTED)}"
        )
    installed = {str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with}
    if missing := [name for name in config.run.trackers if name not in installed]:
        raise ConfigError(f"run.trackers names {', '.join(missing)}, which is not installed: pip install it")
    return accelerator
