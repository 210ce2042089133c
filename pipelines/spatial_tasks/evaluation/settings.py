"""The arguments of `assay spatial eval`."""

from pathlib import Path

from pydantic import Field, field_validator

from assay.client_tls import ClientTls
from pipelines.engine.settings import BatchSettings


class JudgeSettings(ClientTls, BatchSettings):
    """Who answers, and how answers are counted.

    Args:
        targets: addresses of the spatial service's replicas.
        deadline_s: for the questions of one call, all retries included.
        batch_size: questions of one call.
        image_folder: relative paths of pictures are relative to it.
        compat: `metrics` and `results` as the reference has them; what is asked stays the same.
    """

    targets: tuple[str, ...] = Field(default=("localhost:50055",), min_length=1)
    deadline_s: float = Field(default=600.0, gt=0)
    batch_size: int = Field(default=16, ge=1)
    image_folder: Path = Path("/")
    compat: bool = False


class EvalSettings(JudgeSettings):
    """With what to ask, and where to write.

    Args:
        data_json: questions that `assay spatial build` made, or others of that form.
        output_json: numbers and answers; the page, and the folder that a killed run goes on from, lie beside it.
        limit: only the first so many questions; -1 is all.
    """

    data_json: Path
    output_json: Path
    limit: int = Field(default=-1, ge=-1)

    @field_validator("output_json")
    @classmethod
    def _is_json(cls, path: Path) -> Path:
        if path.suffix != ".json":
            raise ValueError("must end in .json: the folder and the page beside it have its name without")
        return path

    @property
    def folder(self) -> Path:
        """Of the ledger."""
        return self.output_json.with_suffix("")
