"""What users may import, and what must not be in the code."""

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import assay
from assay import errors

ROOT = Path(assay.__file__).parent
SOURCES = sorted(path for path in ROOT.rglob("*.py") if path.parent.name != "v1")

PUBLIC = [
    "AssayError",
    "AuthenticationError",
    "ClientClosedError",
    "ConfigError",
    "ConfigModel",
    "DeadlineExceededError",
    "Detection",
    "Evidence",
    "Failed",
    "FingerprintMismatchError",
    "GenEvalTask",
    "InvalidRequestError",
    "ObjectClause",
    "Outcome",
    "OutcomeTask",
    "PointingTask",
    "PotentialTask",
    "RequestTooLargeError",
    "RewardBatch",
    "RewardClient",
    "RewardConfig",
    "RewardSet",
    "Scored",
    "ScorerNotFoundError",
    "ScoringFailedError",
    "ServiceFailedError",
    "ServiceUnavailableError",
    "SpatialTask",
    "Task",
    "load_config",
]


def test_the_public_names_are_these() -> None:
    assert assay.__all__ == PUBLIC
    assert all(getattr(assay, name) is not None for name in PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        assay.nope  # noqa: B018


def every_error() -> list[type[errors.AssayError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.AssayError)]


@pytest.mark.parametrize("kind", every_error())
def test_each_error_is_in_the_tree_and_survives_pickling(kind: type[errors.AssayError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")
    if kind is not errors.AssayError:
        standard = [base for base in kind.__mro__ if base.__module__ == "builtins"]
        assert standard[0] not in (Exception, BaseException, object)
    copy = pickle.loads(pickle.dumps(kind("what", reason="WHY", targets=["a:1"])))
    assert (type(copy), str(copy), copy.reason, copy.targets) == (kind, "what", "WHY", ("a:1",))


def test_the_client_needs_none_of_the_serving_extra() -> None:
    code = (
        "import sys, assay; assay.RewardClient; assay.RewardSet; "
        "print([n for n in ('fastapi', 'uvicorn', 'prometheus_client', 'torch', 'transformers') if n in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_can_run_what_came_over_the_wire(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "__import__"}


#: Where every exception ends: the edges of the three doors (gRPC, HTTP, Ray's ingress), the batch executor, and the
#: call of a user's resolver.
BROAD = {
    "replica_pool.py": 1,
    "serving/grpc_server.py": 1,
    "serving/http_app.py": 1,
    "serving/execution.py": 1,
    "serving/batcher.py": 1,
    "serving/model_thread.py": 1,
    "serving/ray_serve.py": 1,
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_errors_are_swallowed_nowhere_else(path: Path) -> None:
    broad = 0
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type is not None else "BaseException"
            reraises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
            broad += (
                "Exception" in caught.replace("(", " ").replace(",", " ").split() or "BaseException" in caught
            ) and (not reraises)
    assert broad == BROAD.get(str(path.relative_to(ROOT)), 0)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_short_and_explained(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 60, node.name
