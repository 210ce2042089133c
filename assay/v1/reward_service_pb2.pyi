from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_TRAINING: _ClassVar[Priority]
    PRIORITY_EVALUATION: _ClassVar[Priority]
    PRIORITY_BATCH: _ClassVar[Priority]

class EvidenceLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVIDENCE_LEVEL_UNSPECIFIED: _ClassVar[EvidenceLevel]
    EVIDENCE_LEVEL_NONE: _ClassVar[EvidenceLevel]
    EVIDENCE_LEVEL_FULL: _ClassVar[EvidenceLevel]

class ImageFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_FORMAT_UNSPECIFIED: _ClassVar[ImageFormat]
    IMAGE_FORMAT_PNG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_WEBP: _ClassVar[ImageFormat]
    IMAGE_FORMAT_JPEG: _ClassVar[ImageFormat]

class TaskType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_TYPE_UNSPECIFIED: _ClassVar[TaskType]
    TASK_TYPE_GENEVAL: _ClassVar[TaskType]
    TASK_TYPE_OUTCOME: _ClassVar[TaskType]
    TASK_TYPE_POTENTIAL: _ClassVar[TaskType]
    TASK_TYPE_SPATIAL: _ClassVar[TaskType]
    TASK_TYPE_POINTING: _ClassVar[TaskType]
PRIORITY_UNSPECIFIED: Priority
PRIORITY_TRAINING: Priority
PRIORITY_EVALUATION: Priority
PRIORITY_BATCH: Priority
EVIDENCE_LEVEL_UNSPECIFIED: EvidenceLevel
EVIDENCE_LEVEL_NONE: EvidenceLevel
EVIDENCE_LEVEL_FULL: EvidenceLevel
IMAGE_FORMAT_UNSPECIFIED: ImageFormat
IMAGE_FORMAT_PNG: ImageFormat
IMAGE_FORMAT_WEBP: ImageFormat
IMAGE_FORMAT_JPEG: ImageFormat
TASK_TYPE_UNSPECIFIED: TaskType
TASK_TYPE_GENEVAL: TaskType
TASK_TYPE_OUTCOME: TaskType
TASK_TYPE_POTENTIAL: TaskType
TASK_TYPE_SPATIAL: TaskType
TASK_TYPE_POINTING: TaskType

class ScoreRequest(_message.Message):
    __slots__ = ("scorer", "items", "expected_fingerprint", "priority", "evidence_level")
    SCORER_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    scorer: str
    items: _containers.RepeatedCompositeFieldContainer[ScoreItem]
    expected_fingerprint: str
    priority: Priority
    evidence_level: EvidenceLevel
    def __init__(self, scorer: _Optional[str] = ..., items: _Optional[_Iterable[_Union[ScoreItem, _Mapping]]] = ..., expected_fingerprint: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ..., evidence_level: _Optional[_Union[EvidenceLevel, str]] = ...) -> None: ...

class ScoreItem(_message.Message):
    __slots__ = ("id", "images", "prompt", "geneval", "outcome", "potential", "spatial", "pointing")
    ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    GENEVAL_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    POTENTIAL_FIELD_NUMBER: _ClassVar[int]
    SPATIAL_FIELD_NUMBER: _ClassVar[int]
    POINTING_FIELD_NUMBER: _ClassVar[int]
    id: str
    images: _containers.RepeatedCompositeFieldContainer[Image]
    prompt: str
    geneval: GenEvalTask
    outcome: OutcomeTask
    potential: PotentialTask
    spatial: SpatialTask
    pointing: PointingTask
    def __init__(self, id: _Optional[str] = ..., images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ..., prompt: _Optional[str] = ..., geneval: _Optional[_Union[GenEvalTask, _Mapping]] = ..., outcome: _Optional[_Union[OutcomeTask, _Mapping]] = ..., potential: _Optional[_Union[PotentialTask, _Mapping]] = ..., spatial: _Optional[_Union[SpatialTask, _Mapping]] = ..., pointing: _Optional[_Union[PointingTask, _Mapping]] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("rgb", "encoded")
    RGB_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    rgb: RgbImage
    encoded: EncodedImage
    def __init__(self, rgb: _Optional[_Union[RgbImage, _Mapping]] = ..., encoded: _Optional[_Union[EncodedImage, _Mapping]] = ...) -> None: ...

class RgbImage(_message.Message):
    __slots__ = ("width", "height", "rgb8")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    RGB8_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    rgb8: bytes
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., rgb8: _Optional[bytes] = ...) -> None: ...

class EncodedImage(_message.Message):
    __slots__ = ("format", "data")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    format: ImageFormat
    data: bytes
    def __init__(self, format: _Optional[_Union[ImageFormat, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class GenEvalTask(_message.Message):
    __slots__ = ("tag", "include", "exclude")
    TAG_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    tag: str
    include: _containers.RepeatedCompositeFieldContainer[ObjectClause]
    exclude: _containers.RepeatedCompositeFieldContainer[ObjectClause]
    def __init__(self, tag: _Optional[str] = ..., include: _Optional[_Iterable[_Union[ObjectClause, _Mapping]]] = ..., exclude: _Optional[_Iterable[_Union[ObjectClause, _Mapping]]] = ...) -> None: ...

class ObjectClause(_message.Message):
    __slots__ = ("class_name", "count", "color", "position")
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    COLOR_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    class_name: str
    count: int
    color: str
    position: Position
    def __init__(self, class_name: _Optional[str] = ..., count: _Optional[int] = ..., color: _Optional[str] = ..., position: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("relation", "include_index")
    RELATION_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_INDEX_FIELD_NUMBER: _ClassVar[int]
    relation: str
    include_index: int
    def __init__(self, relation: _Optional[str] = ..., include_index: _Optional[int] = ...) -> None: ...

class OutcomeTask(_message.Message):
    __slots__ = ("question",)
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    question: str
    def __init__(self, question: _Optional[str] = ...) -> None: ...

class PotentialTask(_message.Message):
    __slots__ = ("step", "num_steps")
    STEP_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    step: int
    num_steps: int
    def __init__(self, step: _Optional[int] = ..., num_steps: _Optional[int] = ...) -> None: ...

class SpatialTask(_message.Message):
    __slots__ = ("subject", "relation", "reference")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    RELATION_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    subject: str
    relation: str
    reference: str
    def __init__(self, subject: _Optional[str] = ..., relation: _Optional[str] = ..., reference: _Optional[str] = ...) -> None: ...

class PointingTask(_message.Message):
    __slots__ = ("question",)
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    question: str
    def __init__(self, question: _Optional[str] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("results", "scorer_fingerprint", "timing")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SCORER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ScoreResult]
    scorer_fingerprint: str
    timing: Timing
    def __init__(self, results: _Optional[_Iterable[_Union[ScoreResult, _Mapping]]] = ..., scorer_fingerprint: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ...) -> None: ...

class ScoreResult(_message.Message):
    __slots__ = ("id", "score", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    score: Score
    error: _status_pb2.Status
    def __init__(self, id: _Optional[str] = ..., score: _Optional[_Union[Score, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("value", "components", "evidence")
    class ComponentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VALUE_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    value: float
    components: _containers.ScalarMap[str, float]
    evidence: Evidence
    def __init__(self, value: _Optional[float] = ..., components: _Optional[_Mapping[str, float]] = ..., evidence: _Optional[_Union[Evidence, _Mapping]] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("detections", "reason", "judge_text", "points")
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    JUDGE_TEXT_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    detections: _containers.RepeatedCompositeFieldContainer[Detection]
    reason: str
    judge_text: str
    points: _containers.RepeatedCompositeFieldContainer[Point]
    def __init__(self, detections: _Optional[_Iterable[_Union[Detection, _Mapping]]] = ..., reason: _Optional[str] = ..., judge_text: _Optional[str] = ..., points: _Optional[_Iterable[_Union[Point, _Mapping]]] = ...) -> None: ...

class Detection(_message.Message):
    __slots__ = ("label", "confidence", "box", "color")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    COLOR_FIELD_NUMBER: _ClassVar[int]
    label: str
    confidence: float
    box: Box
    color: str
    def __init__(self, label: _Optional[str] = ..., confidence: _Optional[float] = ..., box: _Optional[_Union[Box, _Mapping]] = ..., color: _Optional[str] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x1", "y1", "x2", "y2")
    X1_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    X2_FIELD_NUMBER: _ClassVar[int]
    Y2_FIELD_NUMBER: _ClassVar[int]
    x1: float
    y1: float
    x2: float
    y2: float
    def __init__(self, x1: _Optional[float] = ..., y1: _Optional[float] = ..., x2: _Optional[float] = ..., y2: _Optional[float] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue_ns", "decode_ns", "infer_ns", "total_ns", "batch_items", "spared_items")
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    DECODE_NS_FIELD_NUMBER: _ClassVar[int]
    INFER_NS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ITEMS_FIELD_NUMBER: _ClassVar[int]
    SPARED_ITEMS_FIELD_NUMBER: _ClassVar[int]
    queue_ns: int
    decode_ns: int
    infer_ns: int
    total_ns: int
    batch_items: int
    spared_items: int
    def __init__(self, queue_ns: _Optional[int] = ..., decode_ns: _Optional[int] = ..., infer_ns: _Optional[int] = ..., total_ns: _Optional[int] = ..., batch_items: _Optional[int] = ..., spared_items: _Optional[int] = ...) -> None: ...

class ListScorersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListScorersResponse(_message.Message):
    __slots__ = ("scorers",)
    SCORERS_FIELD_NUMBER: _ClassVar[int]
    scorers: _containers.RepeatedCompositeFieldContainer[ScorerInfo]
    def __init__(self, scorers: _Optional[_Iterable[_Union[ScorerInfo, _Mapping]]] = ...) -> None: ...

class ScorerInfo(_message.Message):
    __slots__ = ("name", "fingerprint", "value_range", "deterministic", "tasks", "limits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VALUE_RANGE_FIELD_NUMBER: _ClassVar[int]
    DETERMINISTIC_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: str
    value_range: ValueRange
    deterministic: bool
    tasks: _containers.RepeatedScalarFieldContainer[TaskType]
    limits: Limits
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[str] = ..., value_range: _Optional[_Union[ValueRange, _Mapping]] = ..., deterministic: _Optional[bool] = ..., tasks: _Optional[_Iterable[_Union[TaskType, str]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class ValueRange(_message.Message):
    __slots__ = ("lowest", "highest")
    LOWEST_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    lowest: float
    highest: float
    def __init__(self, lowest: _Optional[float] = ..., highest: _Optional[float] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_items", "max_pixels_per_image", "max_bytes_per_call", "min_image_side", "max_image_side")
    MAX_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_PER_IMAGE_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_PER_CALL_FIELD_NUMBER: _ClassVar[int]
    MIN_IMAGE_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_SIDE_FIELD_NUMBER: _ClassVar[int]
    max_items: int
    max_pixels_per_image: int
    max_bytes_per_call: int
    min_image_side: int
    max_image_side: int
    def __init__(self, max_items: _Optional[int] = ..., max_pixels_per_image: _Optional[int] = ..., max_bytes_per_call: _Optional[int] = ..., min_image_side: _Optional[int] = ..., max_image_side: _Optional[int] = ...) -> None: ...
