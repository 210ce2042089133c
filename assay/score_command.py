"""`assay score IMAGE...`: score image files with a running service and show why the scores are what they are."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.client import RewardClient
from assay.client_token import token_arguments
from assay.errors import ConfigError, InvalidRequestError
from assay.outcomes import Evidence, Failed, Outcome, Scored
from assay.tasks import GenEvalTask, ObjectClause, OutcomeTask, PointingTask, SpatialTask, Task

Group = tuple[Path, ...]


@dataclass(frozen=True)
class Wanted:
    """What the flags of `assay score` say of the images, all optional."""

    prompt: str | None = None
    class_name: str | None = None
    count: int | None = None
    color: str | None = None
    relation: tuple[str, str, str] | None = None
    mask: Path | None = None
    question: str | None = None

    def task(self) -> Task:
        """The task that the flags describe: GenEval's if an object class is named, a relation, or a target with a mask;
        else the outcome of the prompt.

        Raises:
            ConfigError: they describe none, several, or one of which something is said that it has no place for.
        """
        named = {"--class": self.class_name, "--relation": self.relation, "--mask": self.mask}
        kinds = [flag for flag, value in named.items() if value is not None]
        if not kinds and self.prompt is None and self.question is None:
            raise ConfigError(
                "say what the images should show: --prompt TEXT, --class NAME with --count or --color, "
                "--relation SUBJECT RELATION REFERENCE, or --mask FILE"
            )
        if len(kinds) > 1:
            raise ConfigError(f"{' and '.join(kinds)} ask for different things: give one of them")
        if self.class_name is None and (self.count is not None or self.color is not None):
            raise ConfigError("--count and --color say something of a class: name it with --class")
        if self.question is not None and kinds not in ([], ["--mask"]):
            raise ConfigError(f"--question does not go with {kinds[0]}, which asks its own")
        if self.relation is not None:
            return SpatialTask(*self.relation)
        if self.mask is not None:
            return PointingTask(self.question or "")
        return OutcomeTask(self.question or "") if self.class_name is None else self._geneval(self.class_name)

    def prompt_text(self) -> str:
        """The prompt, or one for a task that was given without."""
        if self.prompt is not None:
            return self.prompt
        if self.relation is not None:
            return f"a photo of {' '.join(self.relation)}"
        number = "a photo of" if self.count is None else f"a photo of {self.count}"
        return " ".join((number, *(part for part in (self.color, self.class_name) if part))) if self.class_name else ""

    def _geneval(self, class_name: str) -> GenEvalTask:
        tag = "colors" if self.color is not None else "counting" if self.count is not None else "single_object"
        count = 1 if self.count is None else self.count
        return GenEvalTask(tag=tag, include=(ObjectClause(class_name, count, self.color),))


def group_images(images: Sequence[Path], mask: Path | None) -> list[Group]:
    """The files of each item: one image, or all of them as views with the mask of the last."""
    return [(image,) for image in images] if mask is None else [(*images, mask)]


def score_files(
    groups: Sequence[Group],
    task: Task,
    *,
    prompt: str,
    target: str,
    scorer: str | None,
    token: str | None,
    tls_files: Mapping[str, Any],
    deadline_s: float,
) -> tuple[str, list[Outcome]]:
    """(name of the scorer, outcome of each group of files). Files go to the service as they are.

    `token`: None for that of the environment. `tls_files`: `tls_ca`, `tls_certificate` and `tls_key` of `RewardClient`.

    Raises:
        InvalidRequestError: a file cannot be read, or the service has several scorers and none was chosen.
    """
    contents = [tuple(_read(path) for path in group) for group in groups]
    with RewardClient([target], deadline_s=deadline_s, **token_arguments(token), **tls_files) as client:
        name = scorer or _only_scorer(client, task, deadline_s)
        outcomes = client.score(
            contents,
            scorer=name,
            prompts=[prompt] * len(contents),
            tasks=[task] * len(contents),
            ids=[group[0].name for group in groups],
            priority="evaluation",
            evidence=True,
        )
    return name, outcomes


def as_json(groups: Sequence[Group], scorer: str, outcomes: Sequence[Outcome]) -> str:
    """A list with one object for each item, holding `score` or `error`."""
    return json.dumps(
        [_as_dict(group, scorer, outcome) for group, outcome in zip(groups, outcomes, strict=True)], indent=2
    )


def as_text(groups: Sequence[Group], scorer: str, outcomes: Sequence[Outcome]) -> str:
    """For people."""
    return "\n".join(
        line for group, outcome in zip(groups, outcomes, strict=True) for line in _lines(_name(group), scorer, outcome)
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


def _name(group: Group) -> str:
    return " ".join(map(str, group))


def _as_dict(group: Group, scorer: str, outcome: Outcome) -> dict[str, Any]:
    key = "error" if isinstance(outcome, Failed) else "score"
    shown = {"image": str(group[0])} if len(group) == 1 else {"images": [str(path) for path in group]}
    return {**shown, "scorer": scorer, key: dataclasses.asdict(outcome)}


def _lines(name: str, scorer: str, outcome: Outcome) -> list[str]:
    if isinstance(outcome, Failed):
        return [f"{name}: no score: {outcome.code} {outcome.reason}: {outcome.message}"]
    lines = [f"{name}: {scorer} = {outcome.value:.4f}", *_component_lines(outcome)]
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
