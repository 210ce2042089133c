"""Has a prompt's images scored by a reward service, and keeps the judgement of each in `scores.json`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assay.client import RewardClient
from assay.errors import ServiceFailedError
from assay.outcomes import Failed, Outcome, Scored
from pipelines.engine.stage import UnitError, Workplace
from pipelines.engine.unit import Unit
from pipelines.evaluate.image_folder import sample_number
from pipelines.evaluate.image_worker import STAGE as IMAGES
from pipelines.evaluate.results import ImageResult
from pipelines.reward_service import ServiceAddress

STAGE = "scores"
#: Prompts under way at once, so that the service has batches to make of them.
CONCURRENCY = 16
FILE = "scores.json"


class ScoreWorker:
    """Keeps a client connected.

    Args:
        client: of the service.
        scorer: which of its scorers judges.
    """

    def __init__(self, client: RewardClient, scorer: str) -> None:
        self._client = client
        self._scorer = scorer

    def close(self) -> None:
        self._client.close()

    def run(self, unit: Unit, workplace: Workplace) -> None:
        """An image that cannot be judged has its error in the file; the prompt's others have their scores."""
        if unit.locations["problem"]:
            raise UnitError(unit.locations["problem"])
        files = [Path(path) for path in unit.locations["images"]]
        shown = unit.inputs.get("shown", [])
        if IMAGES in workplace.upstream:
            files = sorted((workplace.upstream[IMAGES] / "samples").iterdir())
            shown = [f"images/{unit.item}/samples/{path.name}" for path in files]
        contents = [_read(path) for path in files]
        readable = [content for content in contents if isinstance(content, bytes)]
        outcomes = iter(self._score(unit, readable) if readable else [])
        results = []
        for rank, (path, content) in enumerate(zip(files, contents, strict=True)):
            outcome = next(outcomes) if isinstance(content, bytes) else content
            if isinstance(outcome, Failed):
                workplace.log.warning("%s: no score: %s", path, outcome.message)
            results.append(_result(unit, sample_number(path, rank), path, shown[rank], outcome))
        (workplace.folder / FILE).write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")

    def _score(self, unit: Unit, images: list[bytes]) -> list[Outcome]:
        """The outcomes; only those that are the image's or the task's own fault may be failures."""
        metadata = unit.inputs["metadata"]
        outcomes = self._client.score(
            images,
            scorer=self._scorer,
            prompts=[metadata["prompt"]] * len(images),
            tasks=[metadata] * len(images),
            ids=[f"{unit.item}-{number}" for number in range(len(images))],
            expected_fingerprint=unit.inputs["fingerprint"],
            priority="evaluation",
            evidence=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, Failed) and outcome.code != "INVALID_ARGUMENT":
                raise ServiceFailedError(f"{outcome.code} {outcome.reason}: {outcome.message}", reason=outcome.reason)
            if isinstance(outcome, Scored) and "correct" not in outcome.components:
                raise UnitError(f"scorer = {self._scorer!r} does not say what is correct; allowed: a GenEval scorer")
        return outcomes


def _read(path: Path) -> bytes | Failed:
    try:
        return path.read_bytes()
    except OSError as error:
        return Failed("INVALID_ARGUMENT", "FILE_UNREADABLE", f"cannot be read: {error.strerror}")


def _result(unit: Unit, sample: int, path: Path, shown: str, outcome: Outcome) -> ImageResult:
    metadata: dict[str, Any] = unit.inputs["metadata"]
    return ImageResult(
        filename=shown,
        index=unit.inputs["index"],
        sample=sample,
        tag=metadata["tag"],
        prompt=metadata["prompt"],
        metadata=metadata,
        components=None if isinstance(outcome, Failed) else dict(outcome.components),
        reason="" if isinstance(outcome, Failed) or outcome.evidence is None else outcome.evidence.reason,
        error=(
            f"{unit.locations['where']}: {path}: {outcome.reason}: {outcome.message}"
            if isinstance(outcome, Failed)
            else None
        ),
    )


@dataclass(frozen=True)
class LoadScoreWorker:
    """Makes a worker."""

    service: ServiceAddress
    scorer: str

    def __call__(self, device: str) -> ScoreWorker:
        return ScoreWorker(self.service.connect(), self.scorer)
