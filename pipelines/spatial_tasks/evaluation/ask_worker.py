"""Has a few questions answered by a spatial service, and judges what it said: `answers.json`.

The service gets the pictures and, last, the mask in the query picture's size, from which it gives its own score; what
is kept is the text, the point that it read in it, and whether it takes that for a hit.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from assay.client import RewardClient
from assay.errors import ServiceFailedError
from assay.outcomes import Failed, Outcome, Scored
from assay.tasks import PointingTask
from pipelines.engine.stage import UnitError, Workplace
from pipelines.engine.unit import Unit
from pipelines.reward_service import ServiceAddress
from pipelines.spatial_tasks.evaluation.judgement import Target, judge
from pipelines.spatial_tasks.evaluation.reference import judge_as_reference
from pipelines.spatial_tasks.evaluation.results import Result
from pipelines.spatial_tasks.masks import UNREADABLE, Mask, read_mask, size_of
from pipelines.spatial_tasks.points import Answer, Point, SideBySide, Size, read_answer

STAGE = "ask"
#: Failures of the service, not of a question: there may be an answer later.
OF_THE_CALL = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "UNAUTHENTICATED")
FILE = "answers.json"
#: Calls under way at once, so that the service has batches to make of them.
CONCURRENCY = 4

Content = TypeVar("Content")


@dataclass(frozen=True)
class _Shown:
    """What a question needs, read from its files."""

    images: tuple[bytes, ...]
    mask: Mask
    target: Point | None


class AskWorker:
    """Keeps a client connected.

    Args:
        client: of the service.
    """

    def __init__(self, client: RewardClient) -> None:
        self._client = client

    def close(self) -> None:
        self._client.close()

    def run(self, unit: Unit, workplace: Workplace) -> None:
        """A question whose files cannot be read, or that the service refuses, has its error in the file."""
        questions, files = unit.inputs["questions"], unit.locations["files"]
        shown = [_show(question, paths) for question, paths in zip(questions, files, strict=True)]
        asked = [(question, one) for question, one in zip(questions, shown, strict=True) if isinstance(one, _Shown)]
        outcomes = iter(self._ask(unit, asked) if asked else [])
        results = []
        for question, paths, one in zip(questions, files, shown, strict=True):
            if isinstance(one, _Shown):
                result = _result(question, paths, one, next(outcomes))
            else:
                result = Result(**_known(question, paths), error=one)
            if result.error:
                workplace.log.warning("%s: no score: %s", result.id, result.error)
            results.append(asdict(result))
        (workplace.folder / FILE).write_text(json.dumps(results, indent=1) + "\n")

    def _ask(self, unit: Unit, asked: Sequence[tuple[Mapping[str, Any], _Shown]]) -> list[Outcome]:
        """The outcomes; a question that fails by itself has no score, and costs the others nothing."""
        outcomes = self._client.score(
            [(*one.images, _as_picture(one.mask)) for _, one in asked],
            scorer=unit.inputs["scorer"],
            prompts=[""] * len(asked),
            tasks=[PointingTask(question["text"]) for question, _ in asked],
            ids=[question["id"] for question, _ in asked],
            expected_fingerprint=unit.inputs["fingerprint"],
            priority="evaluation",
            evidence=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, Failed) and outcome.code in OF_THE_CALL:
                raise ServiceFailedError(f"{outcome.code} {outcome.reason}: {outcome.message}", reason=outcome.reason)
        return outcomes


def _show(question: Mapping[str, Any], paths: Mapping[str, Any]) -> _Shown | str:
    """What is to be sent, or why it cannot be."""
    if paths["mask"] is None:
        return f"{paths['query']} has no mask beside it"
    try:
        images = tuple(_read(path, _checked_bytes) for path in paths["images"])
        mask = _read(paths["mask"], read_mask)
        target = read_answer(question["wanted"]).point
        if target is not None and question["is_whole_frame"]:
            target = _frame(paths["images"][0], mask).to_right(target)
    except ValueError as error:
        return f"{error}"
    return _Shown(images, mask, target)


def _read(path: str, reader: Callable[[Path], Content]) -> Content:
    """What is in a file.

    Raises:
        ValueError: it cannot be read; names it.
    """
    try:
        return reader(Path(path))
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _checked_bytes(path: Path) -> bytes:
    """Of a picture that can be read to its end."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        image.load()
    return content


def _frame(whole: str, mask: Mask) -> SideBySide:
    """Of a concatenated pair, from its picture and its query's mask."""
    with Image.open(whole) as image:
        width, height = image.size
    query = size_of(mask)
    if width <= query.width or height < query.height:
        raise ValueError(f"{whole}: a picture of {width} x {height} holds no reference beside a query of {query}")
    return SideBySide(Size(width - query.width, height), query)


def _as_picture(mask: Mask) -> bytes:
    """PNG, white where the target is."""
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def _known(question: Mapping[str, Any], paths: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": question["number"],
        "id": question["id"],
        "task": question["task"],
        "images": tuple(paths["images"]),
        "query": paths["query"],
        "mask": paths["mask"],
        "wanted": question["wanted"],
    }


def _result(question: Mapping[str, Any], paths: Mapping[str, Any], shown: _Shown, outcome: Outcome) -> Result:
    known = {**_known(question, paths), "target": shown.target}
    if isinstance(outcome, Failed):
        return Result(**known, error=f"{outcome.reason}: {outcome.message}")
    text = outcome.evidence.judge_text if outcome.evidence else ""
    answer = _answer(outcome, size_of(shown.mask))
    return Result(
        **known,
        text=text,
        point=answer.point,
        judged=judge(answer, Target(shown.target, shown.mask)),
        reference=judge_as_reference(
            text, question["wanted"], shown.mask, is_concatenated=bool(paths["is_concatenated"])
        ),
        service_hit=bool(outcome.components["hit"]),
        target_is_on_mask=(shown.target is not None) == bool(shown.mask.any()),
    )


def _answer(outcome: Scored, query: Size) -> Answer:
    """What the service read. A point on the reference of a concatenated pair is in the evidence alone, left of the
    query, whose pixels that counts in.

    Raises:
        UnitError: it does not say.
    """
    parts = outcome.components
    missing = {"hit", "parsed"} - set(parts)
    if missing:
        raise UnitError(f"the service does not say {', '.join(sorted(missing))}; allowed: a spatial service")
    if not parts["parsed"]:
        return Answer(False, None)
    if not parts["visible_predicted"]:
        return Answer(True, None)
    if "x" in parts:
        return Answer(False, Point(parts["x"], parts["y"]))
    points = outcome.evidence.points if outcome.evidence else ()
    if not points:
        raise UnitError("the service says that it read a point, and not which; allowed: a spatial service")
    return Answer(False, Point(points[0][0] / query.width, points[0][1] / query.height))


@dataclass(frozen=True)
class LoadAskWorker:
    """Makes a worker."""

    service: ServiceAddress

    def __call__(self, device: str) -> AskWorker:
        return AskWorker(self.service.connect())
