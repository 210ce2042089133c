"""A tiny checkpoint for all tests of batch jobs."""

from pathlib import Path

import pytest
from tiny_klein import save_tiny_klein


@pytest.fixture(scope="session")
def tiny_klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_klein(tmp_path_factory.mktemp("checkpoints") / "flux2-klein-4B")
