"""A unit of work for each question: what decides its instructions, and where they go."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

from assay.questions import Template
from pipelines.engine.unit import Unit
from pipelines.generate.plan import digest_if_there, resolve
from pipelines.planning.question_file import Question
from pipelines.planning.settings import PlanningSettings

STAGE = "plan"


def plan_units(
    questions: Sequence[Question], settings: PlanningSettings, template: Template, model: Mapping[str, str]
) -> list[Unit]:
    """One unit a question. An image that is missing is left to the unit, which fails for it alone.

    Args:
        questions: all of them.
        settings: of the run.
        template: of what the model is asked.
        model: what decides its texts, by name.
    """
    digest, name = cache(digest_if_there), settings.planning_model
    root = image_root(settings)
    units = []
    for question in questions:
        paths = [resolve(root, path) for path in question.image_paths]
        relation = {} if question.relation is None else {"relation": asdict(question.relation)}
        units.append(
            Unit(
                item=str(question.id),
                variant=f"{name}/{question.dataset}",
                stage=STAGE,
                folder=f"{name}/texts/{question.dataset}/{question.id}",
                inputs={
                    "id": question.id,
                    "dataset": question.dataset,
                    "question": question.question,
                    "image_paths": list(question.image_paths),
                    **relation,
                    "images": [digest(path) for path in paths],
                    "template": template.text,
                    "model": dict(model),
                    "max_instructions": settings.max_instructions,
                    "max_new_tokens": settings.max_new_tokens,
                },
                locations={"image_paths": list(question.image_paths), "references": [str(path) for path in paths]},
            )
        )
    return units


def image_root(settings: PlanningSettings) -> Path:
    """What image paths are relative to."""
    if settings.data_root is not None:
        return settings.data_root
    return settings.questions if settings.questions.is_dir() else settings.questions.parent
