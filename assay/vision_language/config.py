"""The parts of a service's `scorer:` block that say which model is asked, and in which words it answers."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from assay.config import ConfigModel

PositiveCount = Annotated[int, Field(ge=1)]
PositiveSeconds = Annotated[float, Field(gt=0)]
#: What the requests say themselves: another number of tokens or another temperature would ask something else.
_FIELDS_OF_THE_REQUEST = (
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "temperature",
    "top_p",
)


def _tell_weights_apart(weights: str) -> str:
    if weights.strip().lower() in ("", "unknown"):
        raise ValueError(
            "the server does not tell which weights it runs, and without that a change of them would go unnoticed; "
            "allowed: what changes with them, e.g. their commit on the hub, which the server must be started with, or "
            "a dated snapshot's name"
        )
    return weights


#: What a server runs, in words that the fingerprint covers. Must be given, and the error says what.
ServedWeights = Annotated[str, AfterValidator(_tell_weights_apart), Field(default="", validate_default=True)]


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
        weights: what it runs, e.g. a commit: the server does not tell, and the fingerprint needs it.
        api_key_env, api_key_file: where the key is; it never stands in a configuration.
        top_logprobs: how many tokens are asked for at the place of an answer of yes or no.
        max_concurrency: requests in flight.
        deadline_s: seconds for one question, all attempts together.
        max_attempts: at one request; only lost connections, 429 and 503 are tried again.
        max_tokens_field: newer OpenAI models know only `max_completion_tokens`.
        extra_body: further fields of the request, e.g. {chat_template_kwargs: {enable_thinking: false}}.
    """

    name: Literal["openai"]
    base_url: Annotated[str, Field(pattern="^https?://")]
    model: str
    weights: ServedWeights
    api_key_env: str | None = None
    api_key_file: Path | None = None
    top_logprobs: Annotated[int, Field(ge=2, le=20)] = 20
    max_concurrency: PositiveCount = 16
    deadline_s: PositiveSeconds = 60.0
    max_attempts: PositiveCount = 4
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra_body: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ValueError("api_key_env and api_key_file are both set; allowed: one of them, or neither")
        return self

    @field_validator("extra_body")
    @classmethod
    def _extra_body_is_extra(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in _FIELDS_OF_THE_REQUEST if name in extra_body]:
            raise ValueError(
                f"{', '.join(taken)} is set by the service itself; allowed: fields other than "
                f"{', '.join(_FIELDS_OF_THE_REQUEST)}"
            )
        return extra_body


class AnswersBlock(ConfigModel):
    """The words. Quote them: in YAML, yes and no without quotes are truth values.

    Args:
        forms: which tokens spell them, see `assay.answer_tokens`.
    """

    affirmative: Annotated[str, Field(min_length=1)] = "yes"
    negative: Annotated[str, Field(min_length=1)] = "no"
    forms: Literal["any", "exact"] = "any"
