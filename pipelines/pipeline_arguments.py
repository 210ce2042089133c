"""What a job's settings ask of the pipeline that draws, under diffusers' names."""

from typing import Any, Protocol


class DrawingSettings(Protocol):
    """The settings that all drawing jobs have."""

    @property
    def guidance_scale(self) -> float | None: ...
    @property
    def height(self) -> int | None: ...
    @property
    def width(self) -> int | None: ...
    @property
    def max_sequence_length(self) -> int | None: ...


def pipeline_arguments(settings: DrawingSettings, num_steps: int | None) -> dict[str, Any]:
    """What the pipeline is called with; None is left to the pipeline.

    Args:
        settings: of the job.
        num_steps: of the sampler; its field has different names.
    """
    return {
        "num_inference_steps": num_steps,
        "guidance_scale": settings.guidance_scale,
        "height": settings.height,
        "width": settings.width,
        "max_sequence_length": settings.max_sequence_length,
    }
