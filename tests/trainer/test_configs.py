"""Every shipped configuration is valid, and a wrong one is refused with the field, the value and what is allowed."""

from pathlib import Path

import pytest

from assay.config import load_config
from assay.errors import ConfigError
from trainer.algorithms.flow_grpo import trained_steps
from trainer.config import TrainConfig

ROOT = Path(__file__).parents[2]
MINIATURE = ROOT / "configs/train/miniature_counting.yaml"


@pytest.mark.parametrize("path", sorted((ROOT / "configs/train").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    config = load_config(TrainConfig, path)
    config.check_processes(1)
    assert (ROOT / config.prompts.train).is_file()
    assert (ROOT / config.prompts.test).is_file()


def test_sd35m_counting_has_the_forks_arithmetic() -> None:
    config = load_config(TrainConfig, ROOT / "configs/train/sd35m_counting.yaml")
    config.check_processes(4)
    images = config.sampling.groups_per_epoch * config.sampling.group_size
    assert images == 576
    assert images / 4 / config.sampling.micro_batch_size == 24  # micro-batches an epoch and GPU
    assert trained_steps(config.algorithm, config.sampling.num_steps, [0]).tolist() == [list(range(10))]
    with pytest.raises(ValueError, match="multiple of 14"):
        config.check_processes(7)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.guidance=3", r"unknown field sampling.guidance .*guidance_scale"),
        ("algorithm.clip_range=0", r"algorithm.clip_range = 0: .*greater than 0"),
        ("algorithm.timestep_strategy=last", r"algorithm.timestep_strategy = 'last': .*'first' or 'random'"),
        ("sampling.groups_per_epoch=7", r"groups_per_epoch is 7; it must be a multiple of"),
        ("algorithm={strict_reward: true}", r"strict_reward .* needs one reward of weight 1"),
        ("rewards.0.on_failure=zero", r"on_failure = 'zero': .*'raise', 'drop_group' or 'fill'"),
    ],
)
def test_wrong_fields_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, MINIATURE, [override, *(["rewards.0.weight=2"] if "strict" in override else [])])
