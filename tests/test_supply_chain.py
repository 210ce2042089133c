"""An audit that could not look anything up is no clean bill, and stops nobody who has no network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version
from test_lock import locked, needed

ROOT = Path(__file__).parents[1]
ADVISORY = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": [], "description": ""}
CLEAN = {"name": "grpcio", "version": "1.0", "vulns": []}
UNKNOWN = {"name": "grpcio", "skip_reason": "not found on PyPI"}


def program(path: Path, lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The script beside a Python for which all modules (pip, pytest) find nothing wrong."""
    (tmp_path / "scripts").mkdir()
    for name in ("supply_chain.sh", "read_audit.py"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    program(tmp_path / ".venv/bin/python", f'[ "$1" = -m ] || exec {sys.executable} "$@"')
    return tmp_path


def audit(home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [home / "scripts/supply_chain.sh", "audit"]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)


def report(*entries: dict[str, Any], says: int = 0) -> str:
    return f"cat <<'EOF'\n{json.dumps({'dependencies': entries, 'fixes': []})}\nEOF\nexit {says}"


@pytest.mark.parametrize(
    "tool",
    ["echo 'No known vulnerabilities found' >&2; " + report(UNKNOWN, UNKNOWN), "echo 'cannot connect' >&2; exit 1"],
    ids=["a mirror without advisories", "no network"],
)
def test_what_was_not_looked_up_is_told_and_passes_unless_it_must_not(home: Path, tool: str) -> None:
    program(home / ".venv-audit/bin/pip-audit", tool)
    done = audit(home)
    assert done.returncode == 0, done.stderr
    assert "ADVISORIES WERE NOT LOOKED UP" in done.stderr
    assert "No known vulnerabilities" not in done.stderr + done.stdout
    assert audit(home, AUDIT_STRICT="1").returncode == 3


def test_an_advisory_fails_and_is_named_even_where_little_was_looked_up(home: Path) -> None:
    program(home / ".venv-audit/bin/pip-audit", report({**CLEAN, "vulns": [ADVISORY]}, UNKNOWN, UNKNOWN, says=1))
    done = audit(home)
    assert done.returncode == 1
    assert "grpcio 1.0: PYSEC-1, mended in 2.0" in done.stdout


def test_a_clean_bill_says_how_much_was_looked_up(home: Path) -> None:
    program(home / ".venv-audit/bin/pip-audit", report(*[CLEAN] * 9, UNKNOWN))
    done = audit(home)
    assert done.returncode == 0
    assert "9 of 10 packages were looked up, 0 advisories apply" in done.stdout
    assert done.stderr == ""


def test_packages_that_do_not_go_together_fail_without_a_network_too(home: Path) -> None:
    program(home / ".venv/bin/python", 'case "$*" in *"pip check"*) exit 1 ;; esac')
    program(home / ".venv-audit/bin/pip-audit", report(CLEAN))
    assert audit(home).returncode == 1


@pytest.mark.slow
def test_the_bill_of_materials_names_all_that_is_installed(tmp_path: Path) -> None:
    bill = tmp_path / "sbom.json"
    done = subprocess.run([ROOT / "scripts/supply_chain.sh", "sbom", bill], capture_output=True, text=True)
    if not bill.exists() and "No matching distribution" in done.stderr:
        pytest.skip("there is no package index to get the tool from")
    assert done.returncode == 0, done.stderr
    content = json.loads(bill.read_text())
    assert content["bomFormat"] == "CycloneDX"
    named = {canonicalize_name(part["name"]): part["version"] for part in content["components"]}
    installed = {name: version for name, version in needed().items() if name != "assay"}
    assert named.items() >= installed.items()
    lock = locked()
    assert {name for name in installed if name in lock and Version(named[name]).public != lock[name]} == set()
