"""The JSON form of the contract, for the HTTP door: the same fields, image bytes in base64.

Read with pydantic and turned into a `ScoreRequest`, so that both doors lead to the same path.
"""

import base64
import binascii
from typing import Any, Literal

from google.protobuf import json_format
from pydantic import BaseModel, ConfigDict, Field

from assay.outcomes import Failed
from assay.serving.rejection import Rejection
from assay.tasks import GenEvalTask, OutcomeTask, PointingTask, PotentialTask, SpatialTask, Task
from assay.v1 import reward_service_pb2 as pb
from assay.wire import FORMATS, PRIORITIES, result_from_proto, set_task


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JsonImage(_Strict):
    """An image file (`format` and `data`), or raw pixels (`rgb8` with `width` and `height`); bytes in base64."""

    format: Literal["png", "webp", "jpeg"] | None = None
    data: str | None = None
    width: int | None = Field(default=None, ge=1, le=2**31)
    height: int | None = Field(default=None, ge=1, le=2**31)
    rgb8: str | None = None


class JsonClause(_Strict):
    class_name: str = Field(alias="class")
    count: int = Field(default=1, ge=-(2**31), lt=2**31)
    color: str | None = None
    position: tuple[str, int] | None = None


class JsonGenEvalTask(_Strict):
    """A line of GenEval's task file, less its prompt."""

    type: Literal["geneval"] = "geneval"
    tag: str
    include: list[JsonClause]
    exclude: list[JsonClause] = []

    def to_task(self) -> Task:
        return GenEvalTask.from_metadata(self.model_dump(by_alias=True))


class JsonOutcomeTask(_Strict):
    type: Literal["outcome"]
    question: str = ""

    def to_task(self) -> Task:
        return OutcomeTask(self.question)


class JsonPotentialTask(_Strict):
    type: Literal["potential"]
    step: int = Field(ge=0, lt=2**31)
    num_steps: int = Field(ge=1, lt=2**31)

    def to_task(self) -> Task:
        return PotentialTask(self.step, self.num_steps)


class JsonSpatialTask(_Strict):
    type: Literal["spatial"]
    subject: str
    relation: str
    reference: str

    def to_task(self) -> Task:
        return SpatialTask(self.subject, self.relation, self.reference)


class JsonPointingTask(_Strict):
    type: Literal["pointing"]
    question: str = ""

    def to_task(self) -> Task:
        return PointingTask(self.question)


JsonTask = JsonGenEvalTask | JsonOutcomeTask | JsonPotentialTask | JsonSpatialTask | JsonPointingTask


class JsonItem(_Strict):
    id: str = ""
    images: list[JsonImage] = []
    prompt: str = ""
    task: JsonTask | None = None


class JsonScoreRequest(_Strict):
    """Body of `POST /v1/score`."""

    scorer: str
    items: list[JsonItem]
    expected_fingerprint: str | None = None
    priority: Literal["training", "evaluation", "batch"] = "training"
    evidence: bool = False
    deadline_s: float = Field(default=600.0, gt=0, le=86400)

    def to_proto(self) -> pb.ScoreRequest:
        """Raises: Rejection: an image is not base64."""
        request = pb.ScoreRequest(
            scorer=self.scorer,
            expected_fingerprint=self.expected_fingerprint,
            priority=PRIORITIES[self.priority],
            evidence_level=pb.EVIDENCE_LEVEL_FULL if self.evidence else pb.EVIDENCE_LEVEL_NONE,
        )
        for index, json_item in enumerate(self.items):
            item = request.items.add(id=json_item.id, prompt=json_item.prompt)
            set_task(item, json_item.task.to_task() if json_item.task is not None else None)
            for image in json_item.images:
                _set_image(item.images.add(), image, f"items[{index}].images")
        return request


def response_to_json(response: pb.ScoreResponse) -> dict[str, Any]:
    """The response as JSON; every result has either `score` or `error`."""
    return {
        "results": [_result_to_json(result) for result in response.results],
        "scorer_fingerprint": response.scorer_fingerprint,
        "timing": {field.name: getattr(response.timing, field.name) for field in pb.Timing.DESCRIPTOR.fields},
    }


def _result_to_json(result: pb.ScoreResult) -> dict[str, Any]:
    outcome = result_from_proto(result)
    if isinstance(outcome, Failed):
        return {"id": result.id, "error": {"code": outcome.code, "reason": outcome.reason, "message": outcome.message}}
    score: dict[str, Any] = {"value": outcome.value, "components": dict(outcome.components)}
    if result.score.HasField("evidence"):
        score["evidence"] = json_format.MessageToDict(result.score.evidence, preserving_proto_field_name=True)
    return {"id": result.id, "score": score}


def _set_image(message: pb.Image, image: JsonImage, where: str) -> None:
    if image.rgb8 is not None and image.width is not None and image.height is not None and image.data is None:
        message.rgb.CopyFrom(
            pb.RgbImage(width=image.width, height=image.height, rgb8=_from_base64(image.rgb8, f"{where}.rgb8"))
        )
    elif image.data is not None and image.format is not None and image.rgb8 is None:
        message.encoded.format = FORMATS[image.format.upper()]
        message.encoded.data = _from_base64(image.data, f"{where}.data")
    else:
        raise Rejection(
            "INVALID_ARGUMENT", "IMAGE_MALFORMED", f"{where}: give format and data, or width, height and rgb8"
        )


def _from_base64(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Rejection("INVALID_ARGUMENT", "BASE64_INVALID", f"{where} is not base64: {error}") from error
