"""Has a service say of each finished picture whether it is right: `labels.json`, a label a candidate, and beside it
what it is by further prompts.

A picture without a score has no label. Since its prompt would then have fewer candidates than its neighbours, and of
those the ones that the service could not judge, the whole unit fails; unless `abstained` says what those are.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from assay.client import RewardClient
from assay.outcomes import Failed, Outcome
from pipelines.engine.stage import UnitError, Workplace
from pipelines.engine.unit import Unit
from pipelines.reward_service import ServiceAddress, score_of
from pipelines.verifier_data import draw_worker

STAGE = "label"
FILE = "labels.json"
#: Prompts under way at once, so that the service has batches to make of them.
CONCURRENCY = 16


class LabelWorker:
    """Keeps a client connected.

    Args:
        client: of the service.
    """

    def __init__(self, client: RewardClient) -> None:
        self._client = client

    def close(self) -> None:
        self._client.close()

    def run(self, unit: Unit, workplace: Workplace) -> None:
        if unit.locations["problem"]:
            raise UnitError(unit.locations["problem"])
        drawn = workplace.upstream[draw_worker.STAGE]
        finals = [one["final"] for one in json.loads((drawn / draw_worker.FILE).read_text())["candidates"]]
        pictures = [(drawn / final).read_bytes() for final in finals]
        tasks = [unit.inputs["metadata"], *unit.inputs["further"]]
        labels = []
        for own, *further in self._labels(tasks, unit, pictures, finals):
            found = [{"metadata": task, "label": one["label"]} for task, one in zip(tasks[1:], further, strict=True)]
            labels.append({**own, "further": found})
        (workplace.folder / FILE).write_text(json.dumps(labels, indent=1) + "\n")

    def _labels(
        self, tasks: list[dict[str, Any]], unit: Unit, pictures: list[bytes], finals: list[str]
    ) -> Iterator[list[dict[str, Any]]]:
        """Of each picture, by each task. Those of a picture come together, so that the service looks at it but once."""
        each, number = range(len(finals)), len(tasks)
        outcomes = self._client.score(
            [pictures[picture] for picture in each for _ in tasks],
            scorer=unit.inputs["scorer"],
            prompts=[task["prompt"] for task in tasks] * len(finals),
            tasks=tasks * len(finals),
            ids=[f"{unit.item}-{picture}-{task}" for picture in each for task in range(number)],
            expected_fingerprint=unit.inputs["fingerprint"],
            priority="batch",
        )
        for picture, final in enumerate(finals):
            own = outcomes[picture * number : (picture + 1) * number]
            yield [_label(outcome, unit.inputs, final) for outcome in own]


def _label(outcome: Outcome, inputs: Any, file: str) -> dict[str, Any]:
    """Yes or no, and what it was read from.

    Raises:
        ServiceFailedError: there is no score, and there may be one later.
        UnitError: there will be none, or the scorer does not say yes or no.
    """
    if inputs["abstained"] == "wrong" and isinstance(outcome, Failed) and outcome.reason == "JUDGE_ABSTAINED":
        return {"label": "no", "components": {}}
    scored = score_of(outcome, file)
    value = scored.components.get(inputs["component"])
    if value not in (0.0, 1.0):
        raise UnitError(
            f"component = {inputs['component']!r} of scorer {inputs['scorer']!r} is {value}; a label is 0 or 1; it has "
            f"{', '.join(sorted(scored.components))}"
        )
    return {"label": "yes" if value == 1.0 else "no", "components": dict(scored.components)}


@dataclass(frozen=True)
class LoadLabelWorker:
    """Makes a worker."""

    service: ServiceAddress

    def __call__(self, device: str) -> LabelWorker:
        return LabelWorker(self.service.connect())
