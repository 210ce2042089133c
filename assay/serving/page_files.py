"""The page at `/` and its neighbour `/status`: static files of this package, read once, under a strict policy.

They hold no secret and are served without a token; all they show, they ask of the paths that want one.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from starlette.responses import Response

_FOLDER = Path(__file__).with_name("page")
_CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PAGES = {"/": "index.html", "/status": "status.html"}

#: Nothing from elsewhere, no inline script or style, in no frame; pictures may be those the user chose.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


@cache
def page_files() -> Mapping[str, tuple[bytes, str]]:
    """Path -> (content, content type)."""
    assets = {f"/page/{path.name}": path for path in _FOLDER.iterdir() if path.suffix in _CONTENT_TYPES}
    pages = {path: _FOLDER / name for path, name in _PAGES.items()}
    files = {**{path: file for path, file in assets.items() if file.suffix != ".html"}, **pages}
    return {path: (file.read_bytes(), f"{_CONTENT_TYPES[file.suffix]}; charset=utf-8") for path, file in files.items()}


def page_response(path: str) -> Response:
    """The file at a path of `page_files`."""
    content, content_type = page_files()[path]
    return Response(content, headers=HEADERS, media_type=content_type)
