"""The page that people look at: numbers, and questions with target and answer drawn in, worst first. One file: pictures
are inside."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image, ImageDraw

from assay.files import write_whole
from pipelines.spatial_tasks.evaluation.results import Result
from pipelines.spatial_tasks.masks import UNREADABLE, Mask, read_mask
from pipelines.spatial_tasks.points import Point

#: Questions shown; the numbers are of all.
SHOWN = 80
WIDTH = 320  # of a shown picture, in pixels
MASK_COLOR, TARGET_COLOR, ANSWER_COLOR = (0, 200, 80), (0, 130, 40), (230, 0, 160)
HERE = Path(__file__).parent


def save_page(path: Path, name: str, summary: dict[str, Any], results: Sequence[Result]) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        name: of the evaluation.
        summary: its numbers.
        results: in any order.
    """
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True)
    worst = sorted(results, key=badness, reverse=True)
    figures = [{"result": one, "verdict": verdict(one), **_pictures(one)} for one in worst[:SHOWN]]
    template = environment.get_template("page.html.jinja")
    write_whole(path, template.render(name=name, summary=summary, figures=figures, left=len(results) - len(figures)))


def badness(result: Result) -> tuple[int, float]:
    """Without a score, unreadable, wrong about whether there is a target, beside it by how far, right."""
    judged = result.judged
    if judged is None:
        return 5, 0.0
    if not judged.is_read:
        return 4, 0.0
    if judged.visible == judged.says_not_visible:
        return 3, 0.0
    if judged.visible and not judged.hit:
        return 2, judged.l2_px or 0.0
    return 1, judged.l2_px or 0.0


def verdict(result: Result) -> str:
    """In words."""
    judged = result.judged
    if judged is None:
        return "no score"
    if judged.right:
        return "hit" if judged.hit else "rightly not visible"
    if not judged.is_read:
        return "cannot be read"
    if judged.says_not_visible:
        return "visible, and said not to be"
    return "beside the target" if judged.visible else "points at what is not visible"


def draw(picture: Image.Image, mask: Mask | None, target: Point | None, answer: Point | None) -> Image.Image:
    """Lay the mask over a picture in green; mark the target by a cross and the answer by a ring.

    Args:
        picture: RGB.
        mask: (height, width) of its size, or None.
        target, answer: in its frame; what lies outside is drawn on the border.
    """
    if mask is not None and mask.shape == (picture.height, picture.width):
        pixels = np.asarray(picture).copy()
        pixels[mask] = pixels[mask] * 0.55 + np.array(MASK_COLOR) * 0.45
        picture = Image.fromarray(pixels)
    picture = _scaled(picture)
    pen = ImageDraw.Draw(picture)
    if target is not None:
        x, y = _place(target, picture)
        for dx, dy in ((6, 0), (0, 6)):
            pen.line([x - dx, y - dy, x + dx, y + dy], fill=TARGET_COLOR, width=2)
    if answer is not None:
        x, y = _place(answer, picture)
        pen.ellipse([x - 7, y - 7, x + 7, y + 7], outline=(255, 255, 255), width=4)
        pen.ellipse([x - 6, y - 6, x + 6, y + 6], outline=ANSWER_COLOR, width=2)
    return picture


def _pictures(result: Result) -> dict[str, str]:
    """What was shown first, and the query with all that is known drawn in; as URLs that hold the picture."""
    try:
        asked, query = (Image.open(path).convert("RGB") for path in (result.images[0], result.query))
        mask = read_mask(Path(result.mask)) if result.mask else None
    except UNREADABLE:  # the caption says why there is no score
        return {"asked": "", "answered": ""}
    return {"asked": _as_url(_scaled(asked)), "answered": _as_url(draw(query, mask, result.target, result.point))}


def _scaled(picture: Image.Image) -> Image.Image:
    """To about the page's width: small pictures by whole numbers of pixels, so that pixels stay visible."""
    if picture.width <= WIDTH:
        times = max(1, WIDTH // picture.width)
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    return picture.resize((WIDTH, max(1, round(picture.height * WIDTH / picture.width))), Image.Resampling.LANCZOS)


def _place(point: Point, picture: Image.Image) -> tuple[float, float]:
    return min(max(point.x, 0), 1) * (picture.width - 1), min(max(point.y, 0), 1) * (picture.height - 1)


def _as_url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
