"""Has a prompt's images scored by a reward service, and keeps the judgement of each in `scores.json`."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assay.client import RewardClient
from assay.outcomes import Failed, Outcome
from pipelines.engine.stage import UnitError, Workplace
from pipelines.engine.unit import Unit
from pipelines.evaluate.image_worker import STAGE as IMAGES
from pipelines.evaluate.results import ImageResult

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
        if IMAGES in workplace.upstream:
            files = sorted((workplace.upstream[IMAGES] / "samples").iterdir())
        metadata = unit.inputs["metadata"]
        outcomes = self._client.score(
            [path.read_bytes() for path in files],
            scorer=self._scorer,
            prompts=[metadata["prompt"]] * len(files),
            tasks=[metadata] * len(files),
            ids=[str(path) for path in files],
            expected_fingerprint=unit.inputs["fingerprint"],
            priority="evaluation",
            evidence=True,
        )
        for path, outcome in zip(files, outcomes, strict=True):
            if isinstance(outcome, Failed):
                workplace.log.warning("%s: no score: %s", path, outcome.message)
        results = [
            result_of(unit, k, path, outcome) for k, (path, outcome) in enumerate(zip(files, outcomes, strict=True))
        ]
        (workplace.folder / FILE).write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


def result_of(unit: Unit, sample: int, path: Path, outcome: Outcome) -> ImageResult:
    metadata: dict[str, Any] = unit.inputs["metadata"]
    return ImageResult(
        filename=unit.locations["shown_folder"] + f"/{path.name}",
        index=unit.inputs["index"],
        sample=sample,
        tag=metadata["tag"],
        prompt=metadata["prompt"],
        metadata=metadata,
        components=None if isinstance(outcome, Failed) else dict(outcome.components),
        reason="" if isinstance(outcome, Failed) or outcome.evidence is None else outcome.evidence.reason,
        error=f"{path}: {outcome.reason}: {outcome.message}" if isinstance(outcome, Failed) else None,
    )


@dataclass(frozen=True)
class LoadScoreWorker:
    """Makes a worker. Arguments as in `EvaluateSettings`; a token is read from the environment (ASSAY_TOKEN)."""

    targets: tuple[str, ...]
    scorer: str
    deadline_s: float
    tls_ca: Path | None

    def __call__(self, device: str) -> ScoreWorker:
        return ScoreWorker(self.connect(), self.scorer)

    def connect(self) -> RewardClient:
        token = os.environ.get("ASSAY_TOKEN")
        return RewardClient(self.targets, token=token, tls_ca=self.tls_ca, deadline_s=self.deadline_s)
