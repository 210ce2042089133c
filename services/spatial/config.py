"""The `scorer:` block of the service's YAML file, validated. Errors name the field, its value and what is allowed."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from assay.config import ConfigModel, describe
from assay.errors import ConfigError
from assay.spatial_questions import SpatialQuestionFiles
from assay.vision_language.config import (
    AnswersBlock,
    OpenAiBlock,
    PositiveCount,
    PositiveSeconds,
    ServedWeights,
    TransformersBlock,
)
from services.geneval.config import DetectorBlock, Share
from services.spatial.pointing.families import FAMILIES, FamilyName

ScorerName = Literal["relation", "correspondence", "difference"]


class RoboReferBlock(ConfigModel):
    """A model behind RoboRefer's own HTTP API, `POST /query`, which writes and tells no probabilities.

    Args:
        base_url: up to the path, e.g. http://localhost:25547.
        weights: what it runs, e.g. a commit: the server does not tell, and the fingerprint needs it.
        max_concurrency: requests in flight.
        deadline_s: seconds for one question, all attempts together.
        max_attempts: at one request; only lost connections, 429 and 503 are tried again.
    """

    name: Literal["roborefer"]
    base_url: Annotated[str, Field(pattern="^https?://")]
    weights: ServedWeights
    max_concurrency: PositiveCount = 4
    deadline_s: PositiveSeconds = 60.0
    max_attempts: PositiveCount = 4


class RelationDetectorBlock(ConfigModel):
    """A detector beside the model, that judges left of, right of, above and below by GenEval's rule.

    Args:
        detector: as the GenEval service's.
        device: torch device, or `auto`.
        threshold: an object counts if its confidence is greater.
        position_margin: share of both objects' sizes by which their centres must differ before a relation holds.
    """

    detector: DetectorBlock
    device: str = "auto"
    threshold: Share = 0.3
    position_margin: Annotated[float, Field(ge=0)] = 0.1

    @model_validator(mode="after")
    def _runs_here(self) -> Self:
        if self.detector.backend != "transformers":
            raise ValueError(
                f"detector.backend = {self.detector.backend!r} needs an environment of its own, without the model; "
                "allowed: 'transformers'"
            )
        return self


class RelationBlock(ConfigModel):
    """How the scorer `relation` makes a value.

    Args:
        value: `vlm` is the model's probability of yes, `detector` 1 where the rule holds and 0 where it does not, and
            `agree` the lower of both.
        unsure_within: the model abstains if its probability is less than this away from 0.5.
        on_abstain: what the detector cannot judge the `vlm` does alone; or every item on which either abstains is to
            `fail`.
        detector: null judges with the model alone.
    """

    value: Literal["vlm", "detector", "agree"] = "vlm"
    unsure_within: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    on_abstain: Literal["vlm", "fail"] = "vlm"
    detector: RelationDetectorBlock | None = None

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if self.value != "vlm" and self.detector is None:
            raise ValueError(f"relation.value = {self.value!r} needs relation.detector; allowed without it: 'vlm'")
        return self


class PointingBlock(ConfigModel):
    """How the model points.

    Args:
        family: whose form and range of coordinates its answers have; never guessed from an answer.
        max_new_tokens: the most it may write; models that think first need more.
    """

    family: FamilyName
    max_new_tokens: Annotated[int, Field(ge=1, le=32768)] = 64


class SpatialConfig(ConfigModel):
    """The whole block.

    Args:
        scorers: which are served.
        answers: the words of the scorer `relation`.
        relation: of the scorer `relation`.
        pointing: of the scorers `correspondence` and `difference`.
    """

    scorers: Annotated[tuple[ScorerName, ...], Field(min_length=1)] = ("relation", "correspondence", "difference")
    answers: AnswersBlock = AnswersBlock()
    relation: RelationBlock = RelationBlock()
    pointing: PointingBlock | None = None
    templates: SpatialQuestionFiles = SpatialQuestionFiles()
    backend: Annotated[TransformersBlock | OpenAiBlock | RoboReferBlock, Field(discriminator="name")]

    @property
    def judges(self) -> bool:
        """Whether yes and no are asked for."""
        return "relation" in self.scorers

    @property
    def points(self) -> bool:
        """Whether points are asked for."""
        return bool({"correspondence", "difference"} & set(self.scorers))

    @model_validator(mode="after")
    def _fields_of_the_scorers(self) -> Self:
        if len(set(self.scorers)) < len(self.scorers):
            raise ValueError(f"scorers = {list(self.scorers)} names one twice")
        if self.points and self.pointing is None:
            raise ValueError(f"pointing.family is missing; allowed: {', '.join(FAMILIES)}")
        used = {"answers": self.judges, "relation": self.judges, "pointing": self.points}
        for name in sorted(self.model_fields_set & used.keys()):
            if not used[name] and getattr(self, name) is not None:
                raise ValueError(f"{name} does not go with scorers = {list(self.scorers)}, which do not look at it")
        if not self.judges and self.backend.name == "openai" and "top_logprobs" in self.backend.model_fields_set:
            raise ValueError("backend.top_logprobs does not go without the scorer relation, which alone reads them")
        return self

    @model_validator(mode="after")
    def _fields_of_the_backend(self) -> Self:
        name, pointing = self.backend.name, self.pointing
        if name == "roborefer" and self.judges:
            raise ValueError(
                "scorers: relation does not go with backend.name = 'roborefer', which tells no probabilities; "
                "allowed: correspondence, difference"
            )
        if pointing is None:
            return self
        if name == "roborefer" and pointing.family != "roborefer":
            raise ValueError(
                f"pointing.family = {pointing.family!r} does not go with backend.name = 'roborefer'; allowed: roborefer"
            )
        if name == "roborefer" and "max_new_tokens" in pointing.model_fields_set:
            raise ValueError("pointing.max_new_tokens does not go with backend.name = 'roborefer', which sets its own")
        if name != "transformers" and FAMILIES[pointing.family].needs_input_size:
            raise ValueError(
                f"pointing.family = {pointing.family!r} does not go with backend.name = {name!r}: it points in pixels "
                "of what its processor makes of an image, and a server does not tell how large that is"
            )
        return self


def read_config(block: Any) -> SpatialConfig:
    """Validate the block.

    Raises:
        ConfigError: with one line for each fault.
    """
    try:
        return SpatialConfig.model_validate(block)
    except ValidationError as problem:
        raise ConfigError(describe(problem, SpatialConfig, "scorer"), reason="CONFIG_INVALID") from None
