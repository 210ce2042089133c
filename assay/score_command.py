"""`assay score IMAGE...`: score image files with a running service and show why the scores are what they are."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.client import RewardClient
from assay.errors import ConfigError, InvalidRequestError
from assay.outcomes import Evidence, Failed, Outcome, Scored
from assay.tasks import GenEvalTask, ObjectClause, OutcomeTask, Task


def build_task(class_name: str | None, count: int | None, color: str | None) -> Task:
    """The task that the flags describe: GenEval's if an object class is named, else the outcome of the prompt.

    Raises:
        ConfigError: a count or a colour without a class.
    """
    if class_name is None:
        if count is not None or color is not None:
            raise ConfigError("--count and --color say something of a class: name it with --class")
        return OutcomeTask()
    tag = "colors" if color is not None else "counting" if count is not None else "single_object"
    return GenEvalTask(tag=tag, include=(ObjectClause(class_name, 1 if count is None else count, color),))


def build_prompt(class_name: str | None, count: int | None, color: str | None) -> str:
    """A prompt for a task that was given without one."""
    number = "a photo of" if count is None else f"a photo of {count}"
    return " ".join(part for part in (number, color, class_name) if part)


def score_files(
    paths: Sequence[Path],
    task: Task,
    *,
    prompt: str,
    target: str,
    scorer: str | None,
    token: str | None,
    tls_ca: Path | None,
    deadline_s: float,
) -> tuple[str, list[Outcome]]:
    """(name of the scorer, outcome of each file). Files go to the service as they are.

    Raises:
        InvalidRequestError: a file cannot be read, or the service has several scorers and none was chosen.
    """
    contents = [_read(path) for path in paths]
    with RewardClient([target], token=token, tls_ca=tls_ca, deadline_s=deadline_s) as client:
        name = scorer or _only_scorer(client, task, deadline_s)
        outcomes = client.score(
            contents,
            scorer=name,
            prompts=[prompt] * len(contents),
            tasks=[task] * len(contents),
            ids=[path.name for path in paths],
            priority="evaluation",
            evidence=True,
        )
    return name, outcomes


def as_json(paths: Sequence[Path], scorer: str, outcomes: Sequence[Outcome]) -> str:
    """A list with one object for each image, holding `score` or `error`."""
    return json.dumps(
        [_as_dict(path, scorer, outcome) for path, outcome in zip(paths, outcomes, strict=True)], indent=2
    )


def as_text(paths: Sequence[Path], scorer: str, outcomes: Sequence[Outcome]) -> str:
    """For people."""
    return "\n".join(
        line for path, outcome in zip(paths, outcomes, strict=True) for line in _lines(path, scorer, outcome)
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}", reason="FILE_UNREADABLE") from error


def _only_scorer(client: RewardClient, task: Task, deadline_s: float) -> str:
    """The first scorer that judges such tasks."""
    infos = client.list_scorers(deadline_s)
    fitting = [info.name for info in infos if not info.tasks or type(task).__name__ in info.tasks]
    if not fitting:
        served = ", ".join(f"{info.name} ({', '.join(info.tasks)})" for info in infos)
        raise InvalidRequestError(f"no scorer there judges a {type(task).__name__}; served are: {served}")
    return fitting[0]


def _as_dict(path: Path, scorer: str, outcome: Outcome) -> dict[str, Any]:
    key = "error" if isinstance(outcome, Failed) else "score"
    return {"image": str(path), "scorer": scorer, key: dataclasses.asdict(outcome)}


def _lines(path: Path, scorer: str, outcome: Outcome) -> list[str]:
    if isinstance(outcome, Failed):
        return [f"{path}: no score: {outcome.code} {outcome.reason}: {outcome.message}"]
    lines = [f"{path}: {scorer} = {outcome.value:.4f}", *_component_lines(outcome)]
    return lines + (_evidence_lines(outcome.evidence) if outcome.evidence else [])


def _component_lines(outcome: Scored) -> list[str]:
    width = max((len(name) for name in outcome.components), default=0)
    return [f"  {name:<{width}}  {number:.4f}" for name, number in sorted(outcome.components.items())]


def _evidence_lines(evidence: Evidence) -> list[str]:
    lines = [f"  because: {evidence.reason}"] if evidence.reason else []
    lines += [f"  judge: {evidence.judge_text}"] if evidence.judge_text else []
    for found in evidence.detections:
        box = ", ".join(f"{edge:.0f}" for edge in found.box)
        color = f" {found.color}" if found.color else ""
        lines.append(f"  found: {found.label}{color}  {found.confidence:.3f}  at ({box})")
    lines += [f"  point: ({x:.1f}, {y:.1f})" for x, y in evidence.points]
    return lines
