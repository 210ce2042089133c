"""What goes on the wire comes off it unchanged."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.outcomes import Detection, Evidence, Failed, Outcome, Scored
from assay.prepared import prepare
from assay.request_bytes import request_bytes
from assay.serving.scorer import Limits, ScorerInfo
from assay.tasks import GenEvalTask, ObjectClause, OutcomeTask, PointingTask, PotentialTask, SpatialTask, Task
from assay.v1 import reward_service_pb2 as pb
from assay.wire import (
    get_task,
    info_from_proto,
    info_to_proto,
    result_from_proto,
    result_to_proto,
    retry_after_s,
    set_task,
    status_to_proto,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
int32 = st.integers(-(2**31), 2**31 - 1)
number = st.floats(allow_nan=False)
clauses = st.builds(ObjectClause, text, int32, st.none() | text, st.none() | st.tuples(text, int32))
tasks = st.one_of(
    st.builds(GenEvalTask, text, st.lists(clauses, max_size=3).map(tuple), st.lists(clauses, max_size=2).map(tuple)),
    st.builds(OutcomeTask, text),
    st.builds(PotentialTask, int32, int32),
    st.builds(SpatialTask, text, text, text),
    st.builds(PointingTask, text),
    st.none(),
)
detections = st.builds(Detection, text, number, st.tuples(number, number, number, number), st.none() | text)
evidence = st.builds(
    Evidence,
    st.lists(detections, max_size=3).map(tuple),
    text,
    text,
    st.lists(st.tuples(number, number), max_size=3).map(tuple),
)
outcomes = st.one_of(
    st.builds(Scored, number, st.dictionaries(text, number, max_size=4), st.none() | evidence),
    st.builds(Failed, st.sampled_from(["INVALID_ARGUMENT", "INTERNAL", "UNAVAILABLE"]), text, text),
)


@given(tasks)
def test_tasks_survive_the_wire(task: Task | None) -> None:
    item = pb.ScoreItem()
    set_task(item, task)
    assert get_task(pb.ScoreItem.FromString(item.SerializeToString())) == task


@given(outcomes)
def test_outcomes_survive_the_wire(outcome: Outcome) -> None:
    result = result_to_proto("x", outcome, with_evidence=True)
    assert result_from_proto(pb.ScoreResult.FromString(result.SerializeToString())) == outcome


def test_an_absent_count_means_one_and_zero_stays_zero() -> None:
    item = pb.ScoreItem()
    item.geneval.include.add(class_name="apple")
    item.geneval.include.add(class_name="dog", count=0)
    task = get_task(item)
    assert isinstance(task, GenEvalTask)
    assert [clause.count for clause in task.include] == [1, 0]


def test_evidence_is_left_out_unless_asked_for() -> None:
    result = result_to_proto("x", Scored(0.5, {}, Evidence(reason="why")), with_evidence=False)
    assert not result.score.HasField("evidence")


def test_a_missing_outcome_is_a_failure() -> None:
    outcome = result_from_proto(pb.ScoreResult(id="x"))
    assert isinstance(outcome, Failed)
    assert outcome.reason == "OUTCOME_MISSING"


def test_scorer_info_survives_the_wire() -> None:
    info = ScorerInfo(
        "n", "f", (-1.0, 2.0), False, ("GenEvalTask", "SpatialTask", "PointingTask"), Limits(1, 2, 3, 4, 5)
    )
    assert info_from_proto(info_to_proto(info)) == info


def test_retry_delay_survives_the_wire() -> None:
    assert retry_after_s(status_to_proto("UNAVAILABLE", "QUEUE_FULL", "", retry_after_s=0.25)) == pytest.approx(0.25)
    assert retry_after_s(status_to_proto("UNAVAILABLE", "QUEUE_FULL", "")) is None


IMAGES = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.integers(1, 20), st.integers(1, 20)).map(lambda size: np.full((*size, 3), sum(size), np.uint8)),
)


@given(st.lists(st.tuples(text, text, tasks, st.lists(IMAGES, min_size=1, max_size=3)), max_size=4), text)
def test_bytes_written_by_hand_are_what_protobuf_reads(
    given_items: list[tuple[str, str, Task | None, list[Any]]], scorer: str
) -> None:
    ids, prompts, item_tasks, images = ([entry[place] for entry in given_items] for place in range(4))
    header = pb.ScoreRequest(scorer=scorer, priority=pb.PRIORITY_BATCH, expected_fingerprint="")
    for copies in (True, False):
        prepared = prepare(images, prompts, item_tasks, ids, copies=copies)
        request = pb.ScoreRequest.FromString(request_bytes(header, prepared, "rgb"))
        assert (request.scorer, request.priority) == (scorer, pb.PRIORITY_BATCH)
        assert request.HasField("expected_fingerprint")
        assert [(item.id, item.prompt, get_task(item)) for item in request.items] == [
            (item_id, prompt, task) for item_id, prompt, task, _ in given_items
        ]
        for item, item_images in zip(request.items, images, strict=True):
            for message, image in zip(item.images, item_images, strict=True):
                if isinstance(image, bytes):
                    assert message.encoded.data == image
                else:
                    assert (message.rgb.height, message.rgb.width) == image.shape[:2]
                    assert message.rgb.rgb8 == image.tobytes()
