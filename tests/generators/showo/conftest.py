"""One small Show-o for all; nobody changes it."""

import pytest
from tiny_showo import build_pipeline

from generators.showo.pipeline import ShowoPipeline
from generators.showo.transformer import Showo


@pytest.fixture(scope="session")
def pipeline() -> ShowoPipeline:
    return build_pipeline()


@pytest.fixture(scope="session")
def showo(pipeline: ShowoPipeline) -> Showo:
    return pipeline.transformer
