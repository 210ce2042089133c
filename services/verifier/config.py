"""The `scorer:` block of the service's YAML file, validated. Errors name the field, its value and what is allowed."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from assay.config import ConfigModel, describe
from assay.errors import ConfigError
from assay.questions import QuestionFiles
from assay.vision_language.config import AnswersBlock, OpenAiBlock, TransformersBlock

ScorerName = Literal["orm", "parm-clarity", "parm-potential"]


class VerifierConfig(ConfigModel):
    """The whole block.

    Args:
        protocol: `logits` reads yes and no from one forward pass; `sampled` is the published verifiers' way.
        temperature: of the sampled protocol.
        scorers: which are served; a model fine-tuned as an ORM alone should serve `orm` alone.
    """

    protocol: Literal["logits", "sampled"] = "logits"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    scorers: Annotated[tuple[ScorerName, ...], Field(min_length=1)] = ("orm", "parm-clarity", "parm-potential")
    answers: AnswersBlock = AnswersBlock()
    templates: QuestionFiles = QuestionFiles()
    backend: Annotated[TransformersBlock | OpenAiBlock, Field(discriminator="name")]

    @model_validator(mode="after")
    def _fields_of_the_protocol(self) -> Self:
        if self.protocol == "sampled" and self.backend.name != "transformers":
            raise ValueError(f"protocol = 'sampled' does not go with backend.name = {self.backend.name!r}")
        if self.protocol == "logits" and "temperature" in self.model_fields_set:
            raise ValueError("temperature does not go with protocol = 'logits', which draws nothing")
        if self.protocol == "sampled" and "forms" in self.answers.model_fields_set:
            raise ValueError("answers.forms does not go with protocol = 'sampled', which has its own rule")
        if self.protocol == "sampled" and "max_images_per_pass" in self.backend.model_fields_set:
            raise ValueError(
                "backend.max_images_per_pass does not go with protocol = 'sampled', which takes one image at a time"
            )
        if len(set(self.scorers)) < len(self.scorers):
            raise ValueError(f"scorers = {list(self.scorers)} names one twice")
        return self


def read_config(block: Any) -> VerifierConfig:
    """Validate the block.

    Raises:
        ConfigError: with one line for each fault.
    """
    try:
        return VerifierConfig.model_validate(block)
    except ValidationError as problem:
        raise ConfigError(describe(problem, VerifierConfig, "scorer"), reason="CONFIG_INVALID") from None
