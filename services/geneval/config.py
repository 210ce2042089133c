"""The `scorer:` block of the service's YAML file, validated. Errors name the field, its value and what is allowed."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from assay.config import ConfigModel, describe
from assay.errors import ConfigError
from services.geneval.rules import RuleSettings

Share = Annotated[float, Field(ge=0, le=1)]
PositiveCount = Annotated[int, Field(ge=1)]


class RulesBlock(ConfigModel):
    """See `services.geneval.rules.RuleSettings`."""

    threshold: Share = 0.3
    counting_threshold: Share = 0.9
    max_objects: Annotated[int, Field(ge=2)] = 16
    position_margin: Annotated[float, Field(ge=0)] = 0.1

    def settings(self) -> RuleSettings:
        return RuleSettings(**self.model_dump())


class DetectorBlock(ConfigModel):
    """The detector.

    Args:
        backend: the library that runs it; `mmdet` in an environment of its own (`make mmdet`).
        model: folder or hub name; for mmdet, the checkpoint file.
        config: only mmdet: a configuration file, or the name of one that comes with it.
        max_overlap: boxes of one class overlapping more are suppressed; 1.0 is off.
        max_images_per_pass: bounds the memory of one forward pass.
        revision, top_k, allow_unexpected: only transformers, see `TransformersDetector`.
    """

    backend: Literal["transformers", "mmdet"] = "transformers"
    model: str
    config: str = "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco"
    revision: str | None = None
    top_k: PositiveCount = 100
    max_overlap: Share = 1.0
    max_images_per_pass: PositiveCount = 16
    allow_unexpected: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fields_of_the_backend(self) -> Self:
        foreign = {"transformers": {"config"}, "mmdet": {"revision", "top_k", "allow_unexpected"}}[self.backend]
        if wrong := sorted(foreign & self.model_fields_set):
            raise ValueError(f"{', '.join(wrong)} does not go with backend {self.backend}")
        return self


class ColorsBlock(ConfigModel):
    """See `services.geneval.colors.ClipColors`."""

    model: str
    revision: str | None = None
    max_crops_per_pass: PositiveCount = 256
    allow_unexpected: tuple[str, ...] = ()


class GenEvalConfig(ConfigModel):
    """The whole block.

    Args:
        score: which reading is the value of the scorer `geneval` (see `services.geneval.scorer.READINGS`).
        device: torch device of both models, or `auto`.
        rules: the rules' numbers.
        detector: the detector.
        colors: the colour classifier; null serves tasks without colours alone.
    """

    score: Literal["soft", "strict", "official", "compat"] = "soft"
    device: str = "auto"
    rules: RulesBlock = RulesBlock()
    detector: DetectorBlock
    colors: ColorsBlock | None


def read_config(block: Any) -> GenEvalConfig:
    """Validate the block.

    Raises:
        ConfigError: with one line for each fault.
    """
    try:
        return GenEvalConfig.model_validate(block)
    except ValidationError as problem:
        raise ConfigError(describe(problem, GenEvalConfig, "scorer"), reason="CONFIG_INVALID") from None
