"""The arguments of `assay plan`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from assay.vision_language.config import OpenAiBlock, TransformersBlock
from pipelines.engine.settings import BatchSettings

Backend = Annotated[TransformersBlock | OpenAiBlock, Field(discriminator="name")]


class PlanningSettings(BatchSettings):
    """What is asked, of which model, and where its instructions go.

    Args:
        questions: JSONL of `id`, `question`, `image_paths`, where the file's folder is not its name `dataset`, and
            where the images should show one `relation`; or a folder with such a `questions.jsonl`.
        data_root: what the image paths are relative to; None: the folder of the questions.
        output_root: for `<name>/results.jsonl`, which `assay generate` reads.
        name: of the planning model there; None takes the last part of the model's.
        backend: the model, in this process or behind an OpenAI-compatible server, as services have it.
        template: file with the question to the model, instead of Assay's own; see `pipelines/planning/template.txt`.
        max_instructions: for one question.
        max_new_tokens: of the model's text; thinking counts.
        max_samples: only the first questions; -1 is all.
    """

    questions: Path
    data_root: Path | None = None
    output_root: Path = Path("predicted_instructions")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    backend: Backend
    template: Path | None = None
    max_instructions: int = Field(default=4, ge=1, le=32)
    max_new_tokens: int = Field(default=512, ge=1)
    max_samples: int = Field(default=-1, ge=-1)

    @property
    def planning_model(self) -> str:
        """Name of the folder below `output_root`."""
        return self.name or Path(self.backend.model).name
