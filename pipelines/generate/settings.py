"""The arguments of `assay generate`; names and defaults are those of the system's own description."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from assay.client_tls import ClientTls
from generators.precision import Precision
from pipelines.engine.settings import BatchSettings


class GenerateSettings(ClientTls, BatchSettings):
    """What to generate from, with what, and where to.

    Args:
        planning_model: folder name under `predicted_instructions_root`; or `all_planning_models` for every folder.
        flux_ckpt: folder of a FLUX.2 klein checkpoint, or its name on the hub.
        predicted_instructions_root: holds `<planning model>/results.jsonl`.
        data_root: what the records' image paths are relative to.
        output_root: for `<dataset>/<planning model>/<checkpoint>/<id>/img_<k>.png`.
        num_inference_steps: denoising steps.
        height: of the images in pixels; None takes the first reference's.
        width: likewise.
        guidance_scale: ignored by distilled checkpoints.
        seed: another number gives other images.
        max_samples: only the first of each planning model; -1 is all.
        batch_size: instructions of one sample that are rendered in one pass.
        dtype: of the weights; `auto` is bfloat16 on a GPU and float32 on the CPU.
        score: `spatial` has the images judged by a spatial service where a record tells a `relation`.
        targets: addresses of the service's replicas.
        deadline_s: for the images of one sample, all retries included.
    """

    planning_model: str | None = None
    all_planning_models: bool = False
    flux_ckpt: str = "checkpoints/flux2-klein-4B"
    predicted_instructions_root: Path = Path("predicted_instructions")
    data_root: Path = Path()
    output_root: Path = Path("generated_images")
    num_inference_steps: int = Field(default=28, ge=1)
    height: int | None = Field(default=None, ge=16)
    width: int | None = Field(default=None, ge=16)
    guidance_scale: float = Field(default=4.0, ge=1.0)
    seed: int = 0
    max_samples: int = Field(default=-1, ge=-1)
    batch_size: int = Field(default=8, ge=1)
    dtype: Precision = "auto"
    score: Literal["spatial"] | None = None
    targets: tuple[str, ...] = Field(default=("localhost:50055",), min_length=1)
    deadline_s: float = Field(default=600.0, gt=0)

    @model_validator(mode="after")
    def _one_source(self) -> "GenerateSettings":
        if (self.planning_model is not None) == self.all_planning_models:
            raise ValueError("give either planning_model or all_planning_models")
        return self

    @model_validator(mode="after")
    def _service_goes_with_scores(self) -> "GenerateSettings":
        for name in ("targets", "deadline_s", *ClientTls.model_fields):
            if self.score is None and name in self.model_fields_set:
                raise ValueError(f"{name} goes with score; allowed for score: spatial")
        return self
