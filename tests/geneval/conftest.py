"""Model folders, made once a run."""

from pathlib import Path

import pytest
import tiny_geneval_models


@pytest.fixture(scope="session")
def mask2former_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_geneval_models.save_mask2former(tmp_path_factory.mktemp("mask2former"))


@pytest.fixture(scope="session")
def rt_detr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_geneval_models.save_rt_detr(tmp_path_factory.mktemp("rt_detr"))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_geneval_models.save_clip(tmp_path_factory.mktemp("clip"))
