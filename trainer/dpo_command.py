"""`assay train dpo [CONFIG] [field=value ...]`: as `assay train CONFIG`, for preferences; by default Show-o's."""

from collections.abc import Sequence
from pathlib import Path

from assay.config import load_config
from assay.errors import ConfigError
from trainer.algorithms.pairs import PairsConfig
from trainer.cli import train
from trainer.config import TrainConfig

#: DPO for the miniature's Show-o on pairs from a file.
OWN_CONFIG = Path(__file__).parents[1] / "configs/train/miniature_showo_dpo.yaml"


def train_dpo(config: Path | None, overrides: Sequence[str]) -> int:
    """Run one training to its end and return the exit code.

    Args:
        config: YAML file; None for the miniature's.
        overrides: `field=value`.

    Raises:
        AssayError: see `trainer.cli.train`; or the configuration is that of another algorithm.
    """
    path = config or OWN_CONFIG
    algorithm = load_config(TrainConfig, path, overrides).algorithm
    if not isinstance(algorithm, PairsConfig):
        raise ConfigError(
            f"{path}: algorithm.name = {algorithm.name!r}; allowed with `assay train dpo`: dpo, showo_dpo"
        )
    return train(path, overrides)
