"""Models, made once a run; and the verifier's tests' models and servers, which these tests use, too."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from roborefer_server import RoboReferServer, running

from assay.questions import QUESTION_FILES

sys.path[:0] = [str(Path(__file__).parents[1] / "verifier")]
TEXTS = [path.read_text() for path in sorted((QUESTION_FILES / "spatial").glob("*.txt"))]


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that wants to say yes or no."""
    import tiny_verifiers

    return tiny_verifiers.save_llava(tmp_path_factory.mktemp("judge"), texts=TEXTS)


@pytest.fixture(scope="session")
def writer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes whatever comes to it."""
    import tiny_verifiers

    return tiny_verifiers.save_llava(tmp_path_factory.mktemp("writer"), leans=False, texts=TEXTS)


@pytest.fixture(scope="module")
def served_roborefer() -> Iterator[RoboReferServer]:
    with running(RoboReferServer()) as server:
        yield server


@pytest.fixture
def roborefer(served_roborefer: RoboReferServer) -> RoboReferServer:
    served_roborefer.reset()
    return served_roborefer
