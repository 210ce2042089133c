"""MkDocs' hook: pages that lie outside of docs/ become part of the site, and links between the two hold in it.

docs/ is the site's root. All else keeps its path from the repository's root, so only links across the edge of docs/
are written anew; what they then miss stops the build.
"""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "services/*/README.md")


def on_files(files: Files, config: MkDocsConfig) -> None:
    for path in sorted(path for pages in PAGES for path in ROOT.glob(pages)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    if "/" not in page.file.src_uri:  # of docs/, or from the root
        markdown = markdown.replace("](../", "](")
    return markdown.replace("](docs/", "](").replace("](../../docs/", "](../../")
