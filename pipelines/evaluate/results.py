"""A line of `results.jsonl`: an image, what it was to show, and the judgement. Keys are GenEval's where it has some."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assay.errors import ConfigError


@dataclass(frozen=True)
class ImageResult:
    """The judgement of one image.

    Args:
        filename: the image, relative to the evaluation's folder where it lies in it.
        index: line of the prompt file, from 0.
        sample: which of the prompt's images, from 0.
        tag: of the task.
        prompt: what was asked for.
        metadata: the task in GenEval's form.
        components: the scorer's named numbers: `correct`, `strict_correct`, `found/<class>`, ...; None without a score.
        reason: why it is wrong, in words.
        error: why there is no score, in words; None if there is one.
    """

    filename: str
    index: int
    sample: int
    tag: str
    prompt: str
    metadata: dict[str, Any]
    components: dict[str, float] | None
    reason: str = ""
    error: str | None = None

    @property
    def is_scored(self) -> bool:
        return self.components is not None

    def component(self, name: str) -> float:
        """One of the scorer's numbers; NaN without a score."""
        return float("nan") if self.components is None else self.components.get(name, float("nan"))

    @property
    def wanted(self) -> int:
        """How many objects the task wants, all classes together."""
        return sum(clause.get("count", 1) for clause in self.metadata.get("include", ()))

    @property
    def found(self) -> float:
        """How many objects of the wanted classes were found; NaN without a score."""
        names = {clause["class"] for clause in self.metadata.get("include", ())}
        return sum(self.component(f"found/{name}") for name in names)

    def to_line(self) -> str:
        values = asdict(self)
        return json.dumps({**values, "correct": self.is_scored and bool(self.component("correct"))})


def write_lines(results: Iterable[ImageResult]) -> str:
    """The content of a `results.jsonl`."""
    return "".join(result.to_line() + "\n" for result in results)


def read_results(path: Path) -> list[ImageResult]:
    """Read a `results.jsonl` that Assay wrote.

    Raises:
        ConfigError: it is missing, or a line is not one of ours; names the line.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; allowed: the folder of an earlier `assay evaluate`")
    results = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            values = json.loads(line)
            values.pop("correct")
            results.append(ImageResult(**values))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}:{number}: not a line that `assay evaluate` wrote: {error}") from None
    return results
