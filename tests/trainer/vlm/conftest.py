"""A model and data to learn from, made once a run."""

from pathlib import Path

import pytest
import tiny_verifier


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model with random weights."""
    return tiny_verifier.save_model(tmp_path_factory.mktemp("tiny-base") / "model")


@pytest.fixture(scope="session")
def orm_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures, half of them right."""
    return tiny_verifier.save_orm_data(tmp_path_factory.mktemp("orm-data"))


@pytest.fixture(scope="session")
def orm_held_out(orm_data: Path) -> Path:
    """Four others."""
    return tiny_verifier.save_orm_data(orm_data.parent, first=100, number=4)
