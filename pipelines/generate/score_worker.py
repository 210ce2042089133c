"""Has a sample's images judged by a spatial service, and its first reference before them: `scores.json`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from assay.client import RewardClient
from assay.errors import ServiceFailedError
from assay.outcomes import Failed, Outcome
from assay.tasks import SpatialTask
from pipelines.engine.stage import Workplace
from pipelines.engine.unit import Unit
from pipelines.generate.image_worker import open_reference
from pipelines.generate.plan import SCORER, STAGE
from pipelines.reward_service import ServiceAddress

#: Samples under way at once, so that the service has batches to make of them.
CONCURRENCY = 8
FILE = "scores.json"


@dataclass(frozen=True)
class Question:
    """What is asked of one picture.

    Args:
        name: of the picture: `reference`, or a file beside.
        task: what it should show.
        picture: in any form that the client takes.
    """

    name: str
    task: SpatialTask
    picture: bytes | Image.Image


class SpatialScoreWorker:
    """Keeps a client connected.

    Args:
        client: of the service.
    """

    def __init__(self, client: RewardClient) -> None:
        self._client = client

    def close(self) -> None:
        self._client.close()

    def run(self, unit: Unit, workplace: Workplace) -> None:
        """A picture that cannot be judged has its error in the file; the others have their scores."""
        tasks = [None if one is None else SpatialTask(**one) for one in unit.inputs["relations"]]
        wanted = list(dict.fromkeys(task for task in tasks if task is not None))
        asked: list[Question] = []
        if unit.locations["references"] and tasks:
            reference = open_reference(unit, 0)
            asked += [Question("reference", task, reference) for task in wanted]
        for k, task in enumerate(tasks):
            if task is not None:
                name = f"img_{k}.png"
                asked.append(Question(name, task, (workplace.upstream[STAGE] / name).read_bytes()))
        outcomes = self._ask(unit, asked) if asked else []
        judged = {(one.name, one.task): _judgement(out) for one, out in zip(asked, outcomes, strict=True)}
        for question in asked:
            if error := judged[question.name, question.task]["error"]:
                workplace.log.warning("%s: no score: %s", question.name, error)
        views = [_view(k, task, judged) for k, task in enumerate(tasks)]
        content = {"id": unit.inputs["id"], "scorer": SCORER, "fingerprint": unit.inputs["fingerprint"], "views": views}
        (workplace.folder / FILE).write_text(json.dumps(content, indent=1) + "\n")

    def _ask(self, unit: Unit, asked: Sequence[Question]) -> list[Outcome]:
        """The outcomes; failures among them are those that would be the same another time."""
        outcomes = self._client.score(
            [question.picture for question in asked],
            scorer=SCORER,
            prompts=[f"{one.task.subject} {one.task.relation} {one.task.reference}" for one in asked],
            tasks=[question.task for question in asked],
            ids=[f"{unit.item}-{number}" for number in range(len(asked))],
            expected_fingerprint=unit.inputs["fingerprint"],
            priority="evaluation",
            evidence=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, Failed) and not _is_final(outcome):
                raise ServiceFailedError(f"{outcome.code} {outcome.reason}: {outcome.message}", reason=outcome.reason)
        return outcomes


def _is_final(failure: Failed) -> bool:
    """Whether it is the picture's or the relation's own fault, or the judge cannot tell (`on_abstain: fail`)."""
    return failure.code == "INVALID_ARGUMENT" or failure.reason == "JUDGE_ABSTAINED"


def _judgement(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Failed):
        return {"value": None, "components": {}, "reason": "", "error": f"{outcome.reason}: {outcome.message}"}
    reason = outcome.evidence.reason if outcome.evidence else ""
    return {"value": outcome.value, "components": dict(outcome.components), "reason": reason, "error": None}


def _view(k: int, task: SpatialTask | None, judged: dict[tuple[str, SpatialTask], dict[str, Any]]) -> dict[str, Any]:
    """What is said of one image: its relation, and its own judgement after the reference's. All null without one."""
    name = f"img_{k}.png"
    return {
        "image": name,
        "relation": None if task is None else asdict(task),
        "before": None if task is None else judged.get(("reference", task)),
        "after": None if task is None else judged[name, task],
    }


@dataclass(frozen=True)
class LoadSpatialScoreWorker:
    """Makes a worker, which needs no device."""

    service: ServiceAddress

    def __call__(self, device: str) -> SpatialScoreWorker:
        return SpatialScoreWorker(self.service.connect())


def read_scores(folder: Path) -> dict[str, Any]:
    """What a worker wrote."""
    content: dict[str, Any] = json.loads((folder / FILE).read_text())
    return content
