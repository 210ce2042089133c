"""The commands of a page of the documentation, as a user would type them, and a folder to type them in."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def commands_of(page: str) -> list[str]:
    """Indented lines of `page` that start with a program of ours (or with variables before it), in order."""
    return re.findall(r"^    ((?:\w+=\S+ )*(?:\.venv/|scripts/).*)$", (ROOT / page).read_text(), re.MULTILINE)


def make_home(folder: Path) -> Path:
    """A user's folder: the repository's files by links, so that what commands write stays apart."""
    for name in ("configs", "docs", "miniature", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def run_command(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """What a shell in `home` makes of it, which must be a success."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=home, env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done
