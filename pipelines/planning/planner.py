"""Asks a vision-language model what to draw: `plan.json`, its text and the instructions read from it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.errors import ConfigError, ServiceFailedError
from assay.outcomes import Failed
from assay.questions import IMAGE, Template
from assay.vision_language.config import AnswersBlock, OpenAiBlock, TransformersBlock
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.models import build_judge_and_writer
from assay.vision_language.writer import Writer
from pipelines.engine.stage import UnitError, Workplace
from pipelines.engine.unit import Unit
from pipelines.generate.image_worker import open_reference
from pipelines.planning.instructions import read_instructions

FILE = "plan.json"
OWN_TEMPLATE = Path(__file__).with_name("template.txt")
PLACES = ("images", "numbers", "question", "most")


def read_template(path: Path | None) -> Template:
    """What the model is asked, with places for the images' marks and numbers, the question, and the most it may write.

    Raises:
        ConfigError: it cannot be read, lacks `{images}` or `{question}`, or has a place that nothing is known for.
    """
    try:
        text = (path or OWN_TEMPLATE).read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"template = {str(path)!r} cannot be read: {error}") from error
    if IMAGE in text:
        raise ConfigError(f"template = {str(path)!r} holds {IMAGE!r}; allowed: the place {{images}}")
    places = re.findall(r"\{(\w+)\}", text)
    if unknown := [place for place in places if place not in PLACES]:
        raise ConfigError(f"template = {str(path)!r} has the place {{{unknown[0]}}}; allowed: {', '.join(PLACES)}")
    for needed in ("images", "question"):
        if places.count(needed) != 1:
            raise ConfigError(
                f"template = {str(path)!r} has the place {{{needed}}} {places.count(needed)} times; needed: once"
            )
    return Template(text, "template")


class Planner:
    """Plans one question after another.

    Args:
        writer: the model.
        template: of what it is asked.
    """

    def __init__(self, writer: Writer, template: Template) -> None:
        self._writer = writer
        self._template = template

    def run(self, unit: Unit, workplace: Workplace) -> None:
        question = unit.inputs["question"]
        special = IMAGE if IMAGE in question else self._writer.special_text(question)
        if special is not None:
            raise UnitError(f"question holds {special!r}, which the model would not read as text")
        images = [np.asarray(open_reference(unit, index)) for index in range(len(unit.inputs["image_paths"]))]
        text = self._template.fill(
            images=" ".join([IMAGE] * len(images)),
            numbers=", ".join(map(str, range(1, len(images) + 1))),
            question=question,
            most=str(unit.inputs["max_instructions"]),
        )
        (written,) = self._writer.write([Inquiry(tuple(images), (text,))], unit.inputs["max_new_tokens"])
        if isinstance(written, Failed):
            said = f"{written.code} {written.reason}: {written.message}"
            if written.code == "INVALID_ARGUMENT":
                raise UnitError(said)
            raise ServiceFailedError(said, reason=written.reason)
        found = read_instructions(written, unit.inputs["max_instructions"])
        plan: dict[str, Any] = {"text": written, "parsed": found is not None, "instructions": found or []}
        if found is None:
            workplace.log.info("no list of instructions in the text: %.200s", written)
        (workplace.folder / FILE).write_text(json.dumps(plan, indent=1) + "\n")


def make_writer(backend: TransformersBlock | OpenAiBlock) -> Writer:
    """The model, ready to write.

    Raises:
        ConfigError: its server cannot be used.
        ModelLoadError: it cannot be loaded, or does not write.
    """
    _, writer = build_judge_and_writer(backend, AnswersBlock(), judges=False, writes=True)
    assert writer is not None
    return writer


@dataclass(frozen=True)
class LoadPlanner:
    """Makes a planner on a device, in whatever process."""

    backend: TransformersBlock | OpenAiBlock
    template: Template

    def __call__(self, device: str) -> Planner:
        backend = self.backend
        if isinstance(backend, TransformersBlock) and backend.device == "auto":
            backend = backend.model_copy(update={"device": device})
        return Planner(make_writer(backend), self.template)
