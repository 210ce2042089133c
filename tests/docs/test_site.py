"""The site builds with every page in it and nothing from elsewhere, and what its pages name exists."""

import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from page_commands import ROOT, commands_of
from pydantic import BaseModel

from assay.config import load_config
from assay.serve_command import ServiceConfig
from pipelines.evaluate.settings import EvaluateSettings
from services.geneval.config import GenEvalConfig
from trainer.algorithms.captioned import CaptionedConfig
from trainer.arithmetic import arithmetic, unmoved_average
from trainer.config import TrainConfig

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, *sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("services/*/README.md")), *ROOT.glob("miniature/**/*.md")]
SERVICES = sorted(path.parent.name for path in ROOT.glob("services/*/README.md"))
OWN_PAGES = ("quickstart", "full_size", "faq", "your_own_reward")


class Loaded(HTMLParser):
    """What a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        named = values.get("href") if tag == "link" else values.get("src")
        self.addresses += [named] if named else []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: what is not said does not stop a strict build.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def in_navigation(entries: object) -> list[str]:
    match entries:
        case str():
            return [entries]
        case dict():
            return [page for value in entries.values() for page in in_navigation(value)]
        case list():
            return [page for value in entries for page in in_navigation(value)]
    raise TypeError(entries)


def test_every_page_is_in_the_navigation_once() -> None:
    pages = in_navigation(SITE["nav"])
    outside = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"services/{name}/README.md" for name in SERVICES)}
    assert sorted(pages) == sorted({page.name for page in DOCS} | outside)


def test_the_site_builds_with_links_and_anchors_that_hold(site: Path) -> None:
    start = (site / "training.html").read_text()
    for page in set(in_navigation(SITE["nav"])) - {"training.md"}:  # that one leads to its own top
        built = site / page.replace("README.md", "index.html").replace(".md", ".html")
        assert built.is_file(), page
        assert f'href="{built.relative_to(site)}" class="md-nav__link"' in start, page
    # These lead out of docs/ and into it: ../services/spatial/README.md and ../../docs/verifier_training.md on disk.
    assert (
        '<a href="services/spatial/index.html">The spatial service</a>' in (site / "image_generation.html").read_text()
    )
    verifier = (site / "services/verifier/index.html").read_text()
    assert '<a href="../../verifier_training.html">docs/verifier_training.md</a>' in verifier


def test_a_browser_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(page.read_text())
        assert [address for address in loaded.addresses if re.match(r"(https?:)?//", address)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_hold_in_the_repository_too(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith(("http", "#")):
            assert (page.parent / link.partition("#")[0]).exists(), link


def fields(model: object, prefix: str = "") -> set[str]:
    """Names of the fields of a training configuration, with dots; of `algorithm`, those of all algorithms."""
    found = set()
    for part in getattr(model, "__args__", [model]):
        if isinstance(part, type) and issubclass(part, BaseModel):
            for name, field in part.model_fields.items():
                found |= {prefix + name} | fields(field.annotation, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_the_training_fields_that_a_page_names_exist(page: Path) -> None:
    sections = "model|sampling|advantages|algorithm|evaluation|optimizer|ema|run"
    named = re.findall(rf"`((?:{sections})\.[a-z_]+)(?=[`:=])", page.read_text())
    assert set(named) <= fields(TrainConfig)


def test_files_that_the_new_pages_name_exist() -> None:
    for name in OWN_PAGES:
        text = (ROOT / f"docs/{name}.md").read_text()
        for path in re.findall(r"configs/[\w/]+\.yaml", text):
            assert (ROOT / path).is_file(), path
    table = (ROOT / "docs/full_size.md").read_text()
    for first, names, last in re.findall(r"`(?:configs/train/)?(\w*)\{([\w,]+)\}(\w*)\.yaml`", table):
        for name in names.split(","):
            assert (ROOT / f"configs/train/{first}{name}{last}.yaml").is_file(), (first, name)
    for path, weights in re.findall(r"\| `([\w/]+\.yaml)` \| `([\w./-]+)`", table):
        file = ROOT / path if path.startswith("configs") else ROOT / "configs/train" / path
        assert weights in file.read_text(), (path, weights)


def test_the_commands_of_full_size_have_valid_settings() -> None:
    checked = 0
    for command in commands_of("docs/full_size.md"):
        words = shlex.split(command)
        overrides = [word for word in words if re.fullmatch(r"[\w.]+=\S+", word)]
        config = next((ROOT / word for word in words if re.fullmatch(r"configs/(?!accelerate)\S+", word)), None)
        if "train" in words:
            settings = load_config(TrainConfig, config, overrides, environment={})
            assert not isinstance(settings.algorithm, CaptionedConfig)
            assert arithmetic(settings, 8 if "launch" in words else 1).optimizer_steps == 2
            assert unmoved_average(settings) is None  # or the saved LoRA would be the start
        elif "serve" in words:
            GenEvalConfig.model_validate(load_config(ServiceConfig, config, overrides, environment={}).scorer)
        elif "evaluate" in words:
            load_config(EvaluateSettings, config, overrides, environment={})
        checked += 1
    assert checked == 7
