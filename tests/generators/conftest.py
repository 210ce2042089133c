"""Each class of model, tiny, in the hub's layout."""

from pathlib import Path

import pytest
from tiny_models import save_flux, save_klein, save_sd3

from generators.loading import load_trainable
from generators.trainable import TrainableGenerator

SAVERS = {"sd3": save_sd3, "flux": save_flux, "klein": save_klein}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name) for name, save in SAVERS.items()}


@pytest.fixture(params=list(SAVERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(folders: dict[str, Path], name: str) -> Path:
    return folders[name]


@pytest.fixture
def generator(folder: Path) -> TrainableGenerator:
    """Higher than wide, so that a confusion of the two shows."""
    return load_trainable(str(folder), height=64, width=48, max_sequence_length=16)
