"""`assay train CONFIG [field=value ...]`: read the configuration, wait for the services, train."""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from assay.config import load_config
from assay.errors import ConfigError
from assay.rewards import RewardSet
from trainer.config import TrainConfig
from trainer.loop import Trainer


def train(config_path: Path, overrides: Sequence[str] = ()) -> int:
    """Run one training to its end and return the exit code.

    Raises:
        AssayError: the configuration is wrong, no service answers, or rewards stay away past their deadline.
    """
    config = load_config(TrainConfig, config_path, overrides)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    accelerator = Accelerator(
        mixed_precision=config.run.mixed_precision,
        log_with=list(config.run.trackers) or None,
        project_dir=config.run.output,
        cpu=not torch.cuda.is_available(),
    )
    try:
        config.check_processes(accelerator.num_processes)
    except ValueError as error:
        raise ConfigError(f"{config_path}: {error}") from None
    with RewardSet(config.rewards, deadline_s=config.run.reward_deadline_s) as rewards:
        rewards.wait_until_ready(config.run.service_wait_s)
        accelerator.init_trackers("assay")
        Trainer(config, accelerator, rewards).run()
        accelerator.end_training()
    return 0
