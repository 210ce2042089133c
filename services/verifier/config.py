"""The `scorer:` block of the service's YAML file, validated. Errors name the field, its value and what is allowed."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from assay.config import ConfigModel, describe
from assay.errors import ConfigError
from assay.questions import QuestionFiles

PositiveCount = Annotated[int, Field(ge=1)]
ScorerName = Literal["orm", "parm-clarity", "parm-potential"]


class TransformersBlock(ConfigModel):
    """A model in this process; see `VisionLanguageModel.load`.

    Args:
        model: folder or hub name.
        revision: branch, tag or commit on the hub.
        adapter: folder or hub name of a LoRA to put on the model.
        chat_template: file to take in place of the model's own.
        device: torch device, or `auto`.
        attention: transformers' name of an implementation; null takes the class's own choice.
        max_images_per_pass: bounds the memory of one forward pass.
        allow_unexpected: regular expressions of keys of the checkpoint that may stay unused.
    """

    name: Literal["transformers"]
    model: str
    revision: str | None = None
    adapter: str | None = None
    chat_template: Path | None = None
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = None
    max_images_per_pass: PositiveCount = 16
    allow_unexpected: tuple[str, ...] = ()


class OpenAiBlock(ConfigModel):
    """A model behind an OpenAI-compatible server (vLLM, SGLang, ...) that gives log-probabilities.

    Args:
        base_url: up to and with `/v1`.
        model: name of the model there.
        weights: what is known of its weights, e.g. a commit: the server does not tell, and the fingerprint needs it.
        api_key_env, api_key_file: where the key is; it never stands in a configuration.
        top_logprobs: how many tokens are asked for at the place of the answer.
        max_concurrency: requests in flight.
        deadline_s: seconds for one question, all attempts together.
        max_attempts: at one request; only lost connections, 429 and 503 are tried again.
        max_tokens_field: newer OpenAI models know only `max_completion_tokens`.
        extra_body: further fields of the request, e.g. {chat_template_kwargs: {enable_thinking: false}}.
    """

    name: Literal["openai"]
    base_url: Annotated[str, Field(pattern="^https?://")]
    model: str
    weights: str = "unknown"
    api_key_env: str | None = None
    api_key_file: Path | None = None
    top_logprobs: Annotated[int, Field(ge=2, le=20)] = 20
    max_concurrency: PositiveCount = 16
    deadline_s: Annotated[float, Field(gt=0)] = 60.0
    max_attempts: PositiveCount = 4
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra_body: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ValueError("api_key_env and api_key_file are both set; allowed: one of them, or neither")
        return self


class AnswersBlock(ConfigModel):
    """The words. Quote them: in YAML, yes and no without quotes are truth values.

    Args:
        forms: which tokens spell them, see `assay.answer_tokens`.
    """

    affirmative: Annotated[str, Field(min_length=1)] = "yes"
    negative: Annotated[str, Field(min_length=1)] = "no"
    forms: Literal["any", "exact"] = "any"


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
