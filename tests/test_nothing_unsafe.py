"""Nothing in the code can run what it was sent or given to read, but for the places named here with their reasons."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("assay", "services", "generators", "trainer", "pipelines", "miniature", "benchmarks", "examples", "proto")

MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "joblib"}
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp"}
CALLS |= {"yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all", "torch.hub.load"}

#: (file, what) -> why it is safe.
ALLOWED: dict[tuple[str, str], str] = {
    ("services/geneval/detectors/mmdet_detector.py", "import pickle"): "only to name pickle.UnpicklingError",
}


def sources() -> list[Path]:
    """Every Python file under version control, or about to be, that is no test."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [ROOT / name for name in listed if not name.startswith("tests/") and (ROOT / name).exists()]


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of everything that could run code out of data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, f"import {name}") for name in _imported(node) & MODULES)
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in _unsafe_call(node))


def _imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    """The top-level modules of which more is imported than errors to name."""
    names = {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.Import):
        return names
    return set() if all(name.endswith("Error") for name in names) else {(node.module or "").split(".")[0]}


def _unsafe_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in NAMES | CALLS:
        yield name
    if name == "torch.load" and keywords.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if name == "yaml.load" and "SafeLoader" not in ast.unparse(call):
        yield "yaml.load without SafeLoader"
    for keyword in ("trust_remote_code", "shell", "allow_pickle", "allow_dangerous_deserialization"):
        if keywords.get(keyword, "False") != "False":
            yield f"{keyword}={keywords[keyword]}"
    if keywords.get("verify") == "False":
        yield "verify=False"


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import load",
        "import torch; torch.load('x')",
        "torch.load('x', weights_only=False)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "exec('x')",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=asked)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "np.load('x', allow_pickle=True)",
        "httpx.get(url, verify=False)",
        "os.system('ls')",
    ],
)
def test_the_search_finds_what_it_is_for(line: str) -> None:
    assert len(list(unsafe(ast.parse(line)))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()",
        "torch.load('x', weights_only=True)",
        "yaml.load(text, Loader=yaml.CSafeLoader)",
        "re.compile('x')",
        "from pickle import PickleError",
    ],
)
def test_the_search_lets_the_harmless_pass(line: str) -> None:
    assert list(unsafe(ast.parse(line))) == []


def test_nothing_in_the_code_can_run_data() -> None:
    paths = sources()
    assert {path.relative_to(ROOT).parts[0] for path in paths} >= set(FOLDERS)
    found = {
        (str(path.relative_to(ROOT)), what): line
        for path in paths
        for line, what in unsafe(ast.parse(path.read_text(), str(path)))
    }
    assert {key: line for key, line in found.items() if key not in ALLOWED} == {}
    assert set(ALLOWED) <= set(found), "an exception that is no longer needed"


def test_no_secret_is_in_the_repository() -> None:
    """Private keys and tokens of well-known shapes, in any file under version control."""
    pattern = (
        r"-----BEGIN [A-Z ]*PRIVATE KEY|ghp_[A-Za-z0-9]{36}|hf_[A-Za-z0-9]{34}|AKIA[A-Z0-9]{16}|sk-[A-Za-z0-9]{40}"
    )
    found = subprocess.run(
        ["git", "grep", "-l", "-I", "-E", pattern, "--", ":!tests/test_nothing_unsafe.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
