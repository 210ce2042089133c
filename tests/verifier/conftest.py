"""Models, made once a run."""

from pathlib import Path

import pytest
import tiny_verifiers


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_verifiers.save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="session")
def writing_llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_verifiers.save_llava(tmp_path_factory.mktemp("writing_llava"), leans=False)


@pytest.fixture(scope="session")
def idefics3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_verifiers.save_idefics3(tmp_path_factory.mktemp("idefics3"))
