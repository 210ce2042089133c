"""What tests of the examples share: the examples themselves on the path, and a served GenEval."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "tests")]  # as a user's trainer finds them; and page_commands


from served_geneval import serve_geneval  # noqa: E402 (found on the path above)


@pytest.fixture(scope="session")
def geneval() -> Iterator[str]:
    """Address of `assay serve geneval`."""
    with serve_geneval() as address:
        yield address
