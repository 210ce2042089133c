"""The arguments of `assay evaluate geneval`."""

from pathlib import Path

from pydantic import Field, model_validator

from assay.client_tls import ClientTls
from generators.precision import Precision
from pipelines.engine.settings import BatchSettings

OFFICIAL_PROMPTS = Path(__file__).parent / "geneval_data" / "evaluation_metadata.jsonl"


class EvaluateSettings(ClientTls, BatchSettings):
    """What to evaluate, with which service, and where to write.

    Args:
        model: a diffusers text-to-image model, folder or hub name; or `images` for images already made.
        lora: on top of the model; a LoRA's folder, or a training run's.
        images: folder of `<index>/samples/*` and `<index>/metadata.jsonl`, as GenEval and Flow-GRPO lay it out.
        prompts: JSONL in GenEval's form, for `model`.
        max_prompts: only the first; -1 is all.
        num_images: images for each prompt.
        output: folder for images, scores, `results.jsonl`, `summary.json`, `table.md`, plots and `report.html`.
        targets: addresses of the reward service's replicas.
        scorer: which of its scorers judges.
        deadline_s: for scoring the images of one prompt, all retries included.
        against: folder of an earlier evaluation to compare with, pair by pair.
        num_steps: denoising steps; this and the next three are the pipeline's own where they are None.
        guidance_scale: of classifier-free guidance.
        height: of the images in pixels.
        width: likewise.
        max_sequence_length: tokens of a prompt, for pipelines that have such an argument.
        seed: another number gives other images.
        batch_size: images of a prompt that are made in one pass.
        dtype: of the weights; `auto` is bfloat16 on a GPU and float32 on the CPU.
    """

    model: str | None = None
    lora: str | None = None
    images: Path | None = None
    prompts: Path = OFFICIAL_PROMPTS
    max_prompts: int = Field(default=-1, ge=-1)
    num_images: int = Field(default=4, ge=1)
    output: Path
    targets: tuple[str, ...] = Field(default=("localhost:50051",), min_length=1)
    scorer: str = "geneval"
    deadline_s: float = Field(default=600.0, gt=0)
    against: Path | None = None
    num_steps: int | None = Field(default=None, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0)
    height: int | None = Field(default=None, ge=16)
    width: int | None = Field(default=None, ge=16)
    max_sequence_length: int | None = Field(default=None, ge=0)
    seed: int = 0
    batch_size: int = Field(default=4, ge=1)
    dtype: Precision = "auto"

    @model_validator(mode="after")
    def _one_source(self) -> "EvaluateSettings":
        if (self.model is None) == (self.images is None):
            raise ValueError("give either model or images")
        if self.lora is not None and self.model is None:
            raise ValueError("lora goes with model")
        return self
