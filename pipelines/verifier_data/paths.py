"""What the ledger knows of a candidate: the pictures on its path, and its label."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.engine.ledger import Ledger, State
from pipelines.engine.unit import PlannedUnit
from pipelines.verifier_data import draw_worker, label_worker

Label = Literal["yes", "no"]


@dataclass(frozen=True)
class FurtherLabel:
    """Whether a finished picture is right by a prompt that it was not drawn from, in GenEval's form."""

    metadata: Mapping[str, Any]
    label: Label


@dataclass(frozen=True)
class Candidate:
    """One path from noise to a finished picture.

    Args:
        item: of its prompt's unit.
        number: among the prompt's candidates, from 0.
        metadata: the task in GenEval's form.
        label: whether the finished picture is right.
        final: the finished picture's file, relative to the root.
        steps: step, from 1 -> that picture's file.
        num_steps: of the sampler; 0 where it is not known, and no step was kept.
        further: labels by other prompts.
    """

    item: str
    number: int
    metadata: Mapping[str, Any]
    label: Label
    final: str
    steps: Mapping[int, str]
    num_steps: int
    further: tuple[FurtherLabel, ...] = ()

    @property
    def prompt(self) -> str:
        return str(self.metadata["prompt"])

    @property
    def tag(self) -> str:
        return str(self.metadata["tag"])


def read_candidates(ledger: Ledger, units: Sequence[PlannedUnit]) -> list[Candidate]:
    """All candidates that are drawn and labelled, by prompt and number.

    Args:
        ledger: of the data's folder.
        units: of the plan.
    """
    folders = {(unit.item, unit.stage): unit.folder for unit in units if ledger.state(unit) is State.DONE}
    items = dict.fromkeys(item for item, stage in folders if stage == label_worker.STAGE)
    return [
        candidate
        for item in items
        if (item, draw_worker.STAGE) in folders
        for candidate in _of_prompt(ledger, item, folders[item, draw_worker.STAGE], folders[item, label_worker.STAGE])
    ]


def _of_prompt(ledger: Ledger, item: str, drawn_in: str, labelled_in: str) -> list[Candidate]:
    entry = ledger.entry(labelled_in)
    assert entry is not None
    drawn = json.loads((ledger.root / drawn_in / draw_worker.FILE).read_text())
    labels = json.loads((ledger.root / labelled_in / label_worker.FILE).read_text())
    return [
        Candidate(
            item=item,
            number=number,
            metadata=entry.inputs["metadata"],
            label=label["label"],
            final=f"{drawn_in}/{one['final']}",
            steps={int(step): f"{drawn_in}/{file}" for step, file in one["steps"].items()},
            num_steps=drawn["num_steps"],
            further=tuple(FurtherLabel(**found) for found in label.get("further", ())),  # older ones have none
        )
        for number, (one, label) in enumerate(zip(drawn["candidates"], labels, strict=True))
    ]
