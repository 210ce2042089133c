"""The `scorer:` block of the service's YAML file, validated. Errors name the field, its value and what is allowed."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.geneval.rules import RuleSettings

Share = Annotated[float, Field(ge=0, le=1)]
PositiveCount = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """A configuration that cannot be used; one line for each fault."""


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RulesBlock(_Block):
    """See `services.geneval.rules.RuleSettings`."""

    threshold: Share = 0.3
    counting_threshold: Share = 0.9
    max_objects: Annotated[int, Field(ge=2)] = 16
    position_margin: Annotated[float, Field(ge=0)] = 0.1

    def settings(self) -> RuleSettings:
        return RuleSettings(**self.model_dump())


class DetectorBlock(_Block):
    """See `services.geneval.detectors.transformers_detector.TransformersDetector`."""

    backend: Literal["transformers"] = "transformers"
    model: str
    revision: str | None = None
    top_k: PositiveCount = 100
    max_overlap: Share = 1.0
    max_images_per_pass: PositiveCount = 16
    allow_unexpected: list[str] = []


class ColorsBlock(_Block):
    """See `services.geneval.colors.ClipColors`."""

    model: str
    revision: str | None = None
    max_crops_per_pass: PositiveCount = 256
    allow_unexpected: list[str] = []


class GenEvalConfig(_Block):
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
        raise ConfigError("\n".join(_describe(dict(error)) for error in problem.errors())) from None


def _describe(error: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in ("scorer", *error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{path} is an unknown field; allowed: {', '.join(_fields_at(error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"{path} is missing"
    return f"{path} is {error['input']!r}; {error['msg']}"


def _fields_at(location: tuple[str, ...]) -> list[str]:
    """Names of the fields of the block at a location of the configuration."""
    block: type[BaseModel] = GenEvalConfig
    for name in location:
        annotation = block.model_fields[name].annotation
        candidates = [annotation, *get_args(annotation)]
        block = next(kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(block.model_fields)
