"""The browser in which the pages are tested: one that is installed, or one got from the npm registry."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv" / "browser"
# As root in a container there is no sandbox to be had; and none of the calls home that a browser makes by itself.
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-quic"]


def find_browser() -> Path | None:
    """`ASSAY_BROWSER`, or a Chromium on the path, or one that `scripts/get_browser.sh` gets; None if it cannot."""
    for name in (os.environ.get("ASSAY_BROWSER", ""), "chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    if not (FOLDER / "chromium").exists() and platform.machine() == "x86_64" and shutil.which("npm"):
        subprocess.run([ROOT / "scripts" / "get_browser.sh", FOLDER], timeout=240, check=False)
    return FOLDER / "chromium" if (FOLDER / "chromium").exists() else None


@contextmanager
def open_browser() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright. Skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium is installed, and none could be got from the npm registry")
    libraries = {"LD_LIBRARY_PATH": str(FOLDER / "lib")} if path.is_relative_to(FOLDER) else {}
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=path, args=FLAGS, env={**os.environ, **libraries}, chromium_sandbox=False
        )
        try:
            yield browser
        finally:
            browser.close()
