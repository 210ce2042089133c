"""Conversions between the messages of the contract and Assay's dataclasses, in both directions.

Pure functions; they neither check images (`assay.images`) nor judge whether a task makes sense for a scorer.
"""

from collections.abc import Mapping
from typing import Any

from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]

from assay.outcomes import Detection, Evidence, Failed, Outcome, Scored
from assay.serving.scorer import Limits, ScorerInfo
from assay.tasks import GenEvalTask, ObjectClause, OutcomeTask, PointingTask, PotentialTask, SpatialTask, Task
from assay.v1 import reward_service_pb2 as pb

ERROR_DOMAIN = "assay"
PRIORITIES = {"training": pb.PRIORITY_TRAINING, "evaluation": pb.PRIORITY_EVALUATION, "batch": pb.PRIORITY_BATCH}
FORMATS = {"PNG": pb.IMAGE_FORMAT_PNG, "WEBP": pb.IMAGE_FORMAT_WEBP, "JPEG": pb.IMAGE_FORMAT_JPEG}
FORMAT_NAMES = {number: name for name, number in FORMATS.items()}
TASK_TYPES = {
    "GenEvalTask": pb.TASK_TYPE_GENEVAL,
    "OutcomeTask": pb.TASK_TYPE_OUTCOME,
    "PotentialTask": pb.TASK_TYPE_POTENTIAL,
    "SpatialTask": pb.TASK_TYPE_SPATIAL,
    "PointingTask": pb.TASK_TYPE_POINTING,
}
_TASK_NAMES = {number: name for name, number in TASK_TYPES.items()}


def set_task(item: pb.ScoreItem, task: Task | None) -> None:
    """Write a task into an item; None leaves it unset."""
    match task:
        case GenEvalTask():
            item.geneval.tag = task.tag
            item.geneval.include.extend(_clause_to_proto(clause) for clause in task.include)
            item.geneval.exclude.extend(_clause_to_proto(clause) for clause in task.exclude)
        case OutcomeTask():
            item.outcome.CopyFrom(pb.OutcomeTask(question=task.question))
        case PotentialTask():
            item.potential.CopyFrom(pb.PotentialTask(step=task.step, num_steps=task.num_steps))
        case SpatialTask():
            item.spatial.CopyFrom(
                pb.SpatialTask(subject=task.subject, relation=task.relation, reference=task.reference)
            )
        case PointingTask():
            item.pointing.CopyFrom(pb.PointingTask(question=task.question))
        case None:
            pass


def get_task(item: pb.ScoreItem) -> Task | None:
    """Read an item's task; None if it has none."""
    match item.WhichOneof("task"):
        case "geneval":
            return GenEvalTask(
                tag=item.geneval.tag,
                include=tuple(_clause_from_proto(clause) for clause in item.geneval.include),
                exclude=tuple(_clause_from_proto(clause) for clause in item.geneval.exclude),
            )
        case "outcome":
            return OutcomeTask(question=item.outcome.question)
        case "potential":
            return PotentialTask(step=item.potential.step, num_steps=item.potential.num_steps)
        case "spatial":
            spatial = item.spatial
            return SpatialTask(subject=spatial.subject, relation=spatial.relation, reference=spatial.reference)
        case "pointing":
            return PointingTask(question=item.pointing.question)
        case _:
            return None


def result_to_proto(item_id: str, outcome: Outcome, with_evidence: bool) -> pb.ScoreResult:
    """Write an outcome; evidence only if asked for, for it can outweigh the score a hundredfold."""
    if isinstance(outcome, Failed):
        return pb.ScoreResult(id=item_id, error=status_to_proto(outcome.code, outcome.reason, outcome.message))
    score = pb.Score(value=outcome.value, components=outcome.components)
    if with_evidence and outcome.evidence is not None:
        score.evidence.CopyFrom(_evidence_to_proto(outcome.evidence))
    return pb.ScoreResult(id=item_id, score=score)


def result_from_proto(result: pb.ScoreResult) -> Outcome:
    """Read an outcome. A result with neither score nor error is a failure, not a zero."""
    match result.WhichOneof("outcome"):
        case "score":
            evidence = _evidence_from_proto(result.score.evidence) if result.score.HasField("evidence") else None
            # Sorted, for a map on the wire has no order, and logs and tables should have one.
            return Scored(result.score.value, dict(sorted(result.score.components.items())), evidence)
        case "error":
            return _failed_from_status(result.error)
        case _:
            return Failed("INTERNAL", "OUTCOME_MISSING", f"the service gave item {result.id!r} no outcome")


def status_to_proto(
    code: str, reason: str, message: str, metadata: Mapping[str, str] | None = None, retry_after_s: float | None = None
) -> status_pb2.Status:
    """Write an AIP-193 status: the reason in an ErrorInfo, and a RetryInfo if `retry_after_s` is given."""
    status = status_pb2.Status(code=code_pb2.Code.Value(code), message=message)
    info = error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=metadata or {})
    status.details.add().Pack(info)
    if retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(retry_after_s * 1e9))
        status.details.add().Pack(retry)
    return status


def error_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo of a status; empty if it has none."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            break
    return info


def retry_after_s(status: status_pb2.Status) -> float | None:
    """The delay that a RetryInfo asks for; None if there is none."""
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToNanoseconds()) / 1e9
    return None


def info_to_proto(info: ScorerInfo) -> pb.ScorerInfo:
    """Write what a client may know of a scorer."""
    lowest, highest = info.value_range
    limits = info.limits
    return pb.ScorerInfo(
        name=info.name,
        fingerprint=info.fingerprint,
        value_range=pb.ValueRange(lowest=lowest, highest=highest),
        deterministic=info.deterministic,
        tasks=[TASK_TYPES[name] for name in info.tasks],
        limits=pb.Limits(
            max_items=limits.max_items,
            max_pixels_per_image=limits.max_pixels_per_image,
            max_bytes_per_call=limits.max_bytes_per_call,
            min_image_side=limits.min_image_side,
            max_image_side=limits.max_image_side,
        ),
    )


def info_from_proto(info: pb.ScorerInfo) -> ScorerInfo:
    """Read what a service says of a scorer. Task types newer than this client are left out."""
    return ScorerInfo(
        name=info.name,
        fingerprint=info.fingerprint,
        value_range=(info.value_range.lowest, info.value_range.highest),
        deterministic=info.deterministic,
        tasks=tuple(_TASK_NAMES[number] for number in info.tasks if number in _TASK_NAMES),
        limits=Limits(
            max_items=info.limits.max_items,
            max_pixels_per_image=info.limits.max_pixels_per_image,
            max_bytes_per_call=info.limits.max_bytes_per_call,
            min_image_side=info.limits.min_image_side,
            max_image_side=info.limits.max_image_side,
        ),
    )


def _clause_to_proto(clause: ObjectClause) -> pb.ObjectClause:
    message = pb.ObjectClause(class_name=clause.class_name, count=clause.count, color=clause.color)
    if clause.position is not None:
        relation, include_index = clause.position
        message.position.CopyFrom(pb.Position(relation=relation, include_index=include_index))
    return message


def _clause_from_proto(clause: pb.ObjectClause) -> ObjectClause:
    position = clause.position
    return ObjectClause(
        class_name=clause.class_name,
        count=clause.count if clause.HasField("count") else 1,
        color=clause.color if clause.HasField("color") else None,
        position=(position.relation, position.include_index) if clause.HasField("position") else None,
    )


def _evidence_to_proto(evidence: Evidence) -> pb.Evidence:
    return pb.Evidence(
        detections=[_detection_to_proto(detection) for detection in evidence.detections],
        reason=evidence.reason,
        judge_text=evidence.judge_text,
        points=[pb.Point(x=x, y=y) for x, y in evidence.points],
    )


def _detection_to_proto(detection: Detection) -> pb.Detection:
    x1, y1, x2, y2 = detection.box
    box = pb.Box(x1=x1, y1=y1, x2=x2, y2=y2)
    return pb.Detection(label=detection.label, confidence=detection.confidence, box=box, color=detection.color)


def _evidence_from_proto(evidence: pb.Evidence) -> Evidence:
    return Evidence(
        detections=tuple(_detection_from_proto(detection) for detection in evidence.detections),
        reason=evidence.reason,
        judge_text=evidence.judge_text,
        points=tuple((point.x, point.y) for point in evidence.points),
    )


def _detection_from_proto(detection: pb.Detection) -> Detection:
    box = detection.box
    return Detection(
        label=detection.label,
        confidence=detection.confidence,
        box=(box.x1, box.y1, box.x2, box.y2),
        color=detection.color if detection.HasField("color") else None,
    )


def _failed_from_status(status: status_pb2.Status) -> Failed:
    known: Any = code_pb2.Code
    code = known.Name(status.code) if status.code in known.values() else "UNKNOWN"
    return Failed(code=code, reason=error_info(status).reason, message=status.message)
