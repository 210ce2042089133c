"""Asks a vision-language model what to draw: `plan.json`, its text and the instructions read from it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.outcomes import Failed
from assay.questions import IMAGE, Template, after_images, read_template
from assay.vision_language.config import AnswersBlock, OpenAiBlock, TransformersBlock
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.models import build_judge_and_writer
from assay.vision_language.writer import Writer
from pipelines.engine.stage import UnitError, Workplace
from pipelines.engine.unit import Unit
from pipelines.generate.image_worker import open_reference
from pipelines.planning.instructions import read_instructions
from pipelines.reward_service import failure_of

FILE = "plan.json"
OWN_TEMPLATE = Path(__file__).with_name("template.txt")


def read_plan_template(path: Path | None) -> Template:
    """What the model is asked, behind its images: with a place for the question, and maybe for the images' numbers and
    the most it may write.

    Raises:
        ConfigError: it cannot be read, or its places are not as they must be.
    """
    return read_template(path or OWN_TEMPLATE, "template", needs=("question",), may_have=("numbers", "most"))


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
            numbers=", ".join(map(str, range(1, len(images) + 1))),
            question=question,
            most=str(unit.inputs["max_instructions"]),
        )
        (written,) = self._writer.write(
            [Inquiry(tuple(images), (after_images(text, len(images)),))], unit.inputs["max_new_tokens"]
        )
        if isinstance(written, Failed):
            raise failure_of(written, "the planning model")
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
