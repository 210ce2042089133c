"""Nothing in the code can run what it was sent or given to read, but for the places named here with their reasons."""

import ast
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("assay", "services", "generators", "trainer", "pipelines", "miniature", "benchmarks", "examples", "proto")

MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "joblib"}
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp"}
CALLS |= {"yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all", "torch.hub.load"}
CALLS |= {"pandas.read_pickle", "runpy.run_path", "runpy.run_module"}

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
    imports = _local_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, f"import {name}") for name in _imported(node) & MODULES)
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in _unsafe_call(node, imports))


def _imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    """The top-level modules of which more is imported than errors to name."""
    names = {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.Import):
        return names
    return set() if all(name.endswith("Error") for name in names) else {(node.module or "").split(".")[0]}


def _local_names(tree: ast.AST) -> dict[str, set[str]]:
    """What a name that is imported anywhere in the file may stand for: `t` for `torch`, `load` for `torch.load`."""
    names: dict[str, set[str]] = defaultdict(set)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = "." * node.level + f"{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                is_path = not module and alias.asname is None  # `import a.b` makes `a` known
                local = alias.name.split(".")[0] if is_path else alias.asname or alias.name
                names[local].add(local if is_path else module + alias.name)
    return names


def _full_names(called: ast.expr, imports: Mapping[str, set[str]]) -> set[str]:
    """`torch.load`, however it was imported; what is built in by its bare name."""
    match called:
        case ast.Name(id=name):
            return {full.removeprefix("builtins.") for full in imports.get(name, {name})}
        case ast.Attribute(value=value, attr=name):
            return {f"{full}.{name}".removeprefix("builtins.") for full in _full_names(value, imports)}
    return {ast.unparse(called)}


def _unsafe_call(call: ast.Call, imports: Mapping[str, set[str]]) -> Iterator[str]:
    names = _full_names(call.func, imports)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    yield from names & (NAMES | CALLS)
    if "torch.load" in names and keywords.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if "yaml.load" in names and "SafeLoader" not in ast.unparse(call):
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
        "from torch import load; load('x')",
        "from torch import load as read; read('x')",
        "import torch as t; t.load('x')",
        "import torch.hub as h; h.load('x', 'y')",
        "from torch import hub; hub.load('x', 'y')",
        "from torch.hub import load; load('x', 'y')",
        "import builtins; builtins.eval(text)",
        "from builtins import exec as run; run('x')",
        "import pandas as pd; pd.read_pickle('x')",
        "import runpy; runpy.run_path('x')",
        "from yaml import unsafe_load; unsafe_load(text)",
        "from yaml import load, Loader; load(text, Loader)",
        "from os import system; system('ls')",
        "def f():\n    from os import system\n    system('ls')",
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
        "from re import compile; compile('x')",
        "from torch import load; load('x', weights_only=True)",
        "from safetensors.torch import load; load(data)",
        "from yaml import load, CSafeLoader; load(text, CSafeLoader)",
        "from .readers import load; load('x')",
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
