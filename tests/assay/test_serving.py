"""The server keeps its bounds and says clearly why it refuses, and goes on."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from assay_doubles import MeanScorer, grey, greys, plain
from google.protobuf import any_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from waiting import wait_for

from assay.client import RewardClient
from assay.errors import (
    DeadlineExceededError,
    FingerprintMismatchError,
    InvalidRequestError,
    RequestTooLargeError,
    ScorerNotFoundError,
)
from assay.images import encode
from assay.outcomes import Failed, Scored
from assay.serving.scorer import Limits
from assay.tasks import GenEvalTask, ObjectClause, OutcomeTask
from assay.testing import BackgroundServer, serve_in_background
from assay.v1 import reward_service_pb2 as pb
from assay.v1 import reward_service_pb2_grpc as pb_grpc


@pytest.fixture
def server(scorer: MeanScorer) -> Iterator[BackgroundServer]:
    with serve_in_background([scorer, MeanScorer("geneval", tasks=("GenEvalTask",))]) as server:
        yield server


def request(count: int = 1, prompt: str = "", **fields: Any) -> pb.ScoreRequest:
    image = pb.Image(rgb=pb.RgbImage(width=16, height=16, rgb8=grey(51).tobytes()))
    items = [pb.ScoreItem(id=str(index), images=[image], prompt=prompt) for index in range(count)]
    return pb.ScoreRequest(**{"scorer": "mean", "items": items, **fields})


def details(error: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo, list[any_pb2.Any]]:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info, list(status.details)


def refusal(server: BackgroundServer, message: pb.ScoreRequest, **options: Any) -> tuple[grpc.StatusCode, str, str]:
    """(code, reason, message) of a call that must be refused, made with a plain stub."""
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as caught:
        pb_grpc.RewardServiceStub(channel).Score(message, timeout=10, **options)
    info, _ = details(caught.value)
    assert info.domain == "assay"
    return caught.value.code(), info.reason, caught.value.details()


def sample_value(server: BackgroundServer, name: str, **labels: str) -> float:
    return server.service.metrics.registry.get_sample_value(name, labels) or 0.0


def test_scores_come_back_in_order_with_components_and_evidence(client: RewardClient) -> None:
    outcomes = client.score(greys(40), scorer="mean", evidence=True, **plain(40))
    for value, outcome in enumerate(outcomes):
        assert isinstance(outcome, Scored)
        assert outcome.value == pytest.approx(value / 255)
        assert outcome.components["pixels"] == 256
        assert outcome.evidence is not None
        assert outcome.evidence.detections[0].color == "red"


def test_one_corrupt_file_of_64_fails_alone(client: RewardClient) -> None:
    files = [encode(image, "PNG") for image in greys(64)]
    files[17] = files[17][:40]
    outcomes = client.score(files, scorer="mean", **plain(64))
    assert sum(isinstance(outcome, Scored) for outcome in outcomes) == 63
    failure = outcomes[17]
    assert isinstance(failure, Failed)
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "IMAGE_UNDECODABLE")
    for index, outcome in enumerate(outcomes):
        assert index == 17 or (isinstance(outcome, Scored) and outcome.value == pytest.approx(index / 255))


def test_one_poison_item_fails_alone_and_its_text_stays_here(client: RewardClient) -> None:
    prompts = ["poison" if index == 5 else "" for index in range(16)]
    outcomes = client.score(greys(16), scorer="mean", prompts=prompts, tasks=[None] * 16)
    assert [index for index, outcome in enumerate(outcomes) if isinstance(outcome, Failed)] == [5]
    assert isinstance(outcomes[5], Failed)
    assert outcomes[5].code == "INTERNAL"
    assert "secret" not in outcomes[5].message


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (grey(0, width=1, height=1), "IMAGE_TOO_SMALL"),
        (grey(0, width=8200, height=8), "IMAGE_TOO_LARGE"),
        (b"GIF89a not an image we know", "IMAGE_FORMAT_UNSUPPORTED"),
        (b"", "IMAGE_FORMAT_UNSUPPORTED"),
        ([], "IMAGE_MISSING"),
        ([grey(0)] * 17, "TOO_MANY_IMAGES"),
    ],
)
def test_a_bad_image_is_named(client: RewardClient, image: Any, reason: str) -> None:
    bad, good = client.score([image, grey(255)], scorer="mean", **plain(2))
    assert isinstance(bad, Failed)
    assert (bad.code, bad.reason) == ("INVALID_ARGUMENT", reason)
    assert good == Scored(1.0, {"mean": 1.0, "pixels": 256.0})


def test_raw_bytes_of_the_wrong_length_are_named(server: BackgroundServer) -> None:
    message = request()
    message.items[0].images[0].rgb.width = 17
    with grpc.insecure_channel(server.target) as channel:
        response = pb_grpc.RewardServiceStub(channel).Score(message, timeout=10)
    assert response.results[0].error.message.startswith("rgb8 holds 768 bytes; 17 x 16 x 3 = 816")


def test_a_missing_or_foreign_task_fails_its_item(client: RewardClient) -> None:
    apple = GenEvalTask("counting", (ObjectClause("apple", 3),))
    outcomes = client.score(greys(3), scorer="geneval", prompts=[""] * 3, tasks=[None, OutcomeTask(), apple])
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, Failed)] == [
        "TASK_MISSING",
        "TASK_UNSUPPORTED",
    ]
    assert isinstance(outcomes[2], Scored)


def test_an_image_with_a_prompt_alone_is_an_outcome_task() -> None:
    scorer = MeanScorer("judge", tasks=("OutcomeTask",))
    with serve_in_background([scorer]) as server, RewardClient([server.target]) as client:
        assert isinstance(client.score([grey(0)], scorer="judge", prompts=["a kite"], tasks=[None])[0], Scored)


def test_unknown_scorer(server: BackgroundServer, client: RewardClient) -> None:
    code, reason, message = refusal(server, request(scorer="nope"))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "SCORER_NOT_FOUND")
    assert "mean, geneval" in message
    with pytest.raises(ScorerNotFoundError, match="no scorer 'nope' is served at"):
        client.score([grey(0)], scorer="nope", **plain(1))


def test_pinned_fingerprint(server: BackgroundServer, client: RewardClient) -> None:
    assert isinstance(client.score([grey(0)], scorer="mean", expected_fingerprint="f1", **plain(1))[0], Scored)
    code, reason, _ = refusal(server, request(expected_fingerprint="f0"))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FINGERPRINT_MISMATCH")
    with pytest.raises(FingerprintMismatchError, match="has fingerprint f1, expected was f0"):
        client.score([grey(0)], scorer="mean", expected_fingerprint="f0", **plain(1))


def test_calls_without_or_with_too_many_items(server: BackgroundServer) -> None:
    assert refusal(server, request(0))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "NO_ITEMS")
    assert refusal(server, request(65))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_ITEMS")


def test_too_many_bytes_are_refused() -> None:
    with serve_in_background([MeanScorer(limits=Limits(max_bytes_per_call=40_000))]) as server:
        assert refusal(server, request(60))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_BYTES")


def test_an_oversized_message_is_refused_once_and_clearly() -> None:
    attempts = []

    class Counting(MeanScorer):
        def score(self, batch: Any) -> Any:
            attempts.append(len(batch))
            return super().score(batch)

    # The message limit is set below what the scorer announces, so that the client's own division does not prevent it.
    with (
        serve_in_background([Counting()], max_message_bytes=1000) as server,
        RewardClient([server.target], deadline_s=5) as client,
    ):
        started_s = time.monotonic()
        with pytest.raises(RequestTooLargeError, match=r"(?i)larger than max|too large"):
            client.score([grey(0, width=1024, height=1024)], scorer="mean", **plain(1))
        assert time.monotonic() - started_s < 2
        assert isinstance(client.score([grey(0)], scorer="mean", **plain(1))[0], Scored)
    assert attempts == [1, 1]  # the warm-up and the last one


def test_a_full_queue_says_when_to_come_back(scorer: MeanScorer) -> None:
    with serve_in_background([scorer], max_queued_items=8) as server, grpc.insecure_channel(server.target) as channel:
        stub = pb_grpc.RewardServiceStub(channel)
        held = stub.Score.future(request(8, "wait"), timeout=20)
        wait_for(lambda: len(scorer.scored_ids) == 8)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Score(request(), timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        info, packed = details(caught.value)
        assert info.reason == "QUEUE_FULL"
        assert {**info.metadata, "request_id": ""} == {"bound": "items", "held": "8", "limit": "8", "request_id": ""}
        retry = error_details_pb2.RetryInfo()
        assert packed[1].Unpack(retry)
        assert 0.05 <= retry.retry_delay.ToNanoseconds() / 1e9 <= 5
        assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "50"
        scorer.gate.set()
        assert len(held.result().results) == 8
        assert len(stub.Score(request(), timeout=5).results) == 1


@pytest.mark.parametrize("bounds", [{"max_queued_pixels": 300}, {"max_bytes_in_flight": 1000}])
def test_pixels_and_bytes_are_bounded_too(scorer: MeanScorer, bounds: dict[str, int]) -> None:
    with serve_in_background([scorer], **bounds) as server, grpc.insecure_channel(server.target) as channel:
        held = pb_grpc.RewardServiceStub(channel).Score.future(request(1, "wait"), timeout=20)
        wait_for(lambda: scorer.scored_ids == ["0"])
        code, reason, message = refusal(server, request())
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL")
        assert next(iter(bounds)).removeprefix("max_").split("_")[-1] in message or "image_bytes" in message
        scorer.gate.set()
        held.result()
    assert server.service.admission.current.items == 0
    assert server.service.admission.current.pixels == 0
    assert server.service.admission.current.image_bytes == 0


def test_a_cancelled_call_leaves_the_queue_unscored(server: BackgroundServer, scorer: MeanScorer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub = pb_grpc.RewardServiceStub(channel)
        blocking = stub.Score.future(request(1, "wait"), timeout=20)
        wait_for(lambda: scorer.scored_ids == ["0"])
        doomed = stub.Score.future(request(3), timeout=20)
        wait_for(lambda: sample_value(server, "assay_held", what="items") == 4)
        doomed.cancel()
        wait_for(lambda: sample_value(server, "assay_held", what="items") == 1)
        scorer.gate.set()
        blocking.result()
        stub.Score(request(), timeout=5)
    assert scorer.scored_ids == ["0", "0"]
    assert sample_value(server, "assay_dropped_items_total", scorer="mean", why="cancelled") == 3


def test_an_expired_call_leaves_the_queue_unscored(server: BackgroundServer, scorer: MeanScorer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub = pb_grpc.RewardServiceStub(channel)
        blocking = stub.Score.future(request(1, "wait"), timeout=20)
        wait_for(lambda: scorer.scored_ids == ["0"])
        with pytest.raises(grpc.RpcError) as caught:
            stub.Score(request(3), timeout=0.1)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        wait_for(lambda: sample_value(server, "assay_held", what="items") == 1)  # the server's clock ends later
        scorer.gate.set()
        blocking.result()
        stub.Score(request(), timeout=5)
    assert scorer.scored_ids == ["0", "0"]


def test_work_that_cannot_be_done_in_time_is_refused_at_once(server: BackgroundServer, client: RewardClient) -> None:
    client.score([grey(0)], scorer="mean", **plain(1, "sleep 0.4"))
    with pytest.raises(DeadlineExceededError) as caught:
        client.score([grey(0)], scorer="mean", deadline_s=0.2, **plain(1))
    assert caught.value.reason == "DEADLINE_TOO_SHORT"


def test_training_goes_before_evaluation_before_batch(server: BackgroundServer, scorer: MeanScorer) -> None:
    with RewardClient([server.target]) as client:
        futures = [client.submit([grey(0)], scorer="mean", ids=["first"], **plain(1, "wait"))]
        wait_for(lambda: scorer.scored_ids == ["first"])
        for priority in ("batch", "evaluation", "training"):
            futures.append(client.submit([grey(0)], scorer="mean", ids=[priority], priority=priority, **plain(1)))
            wait_for(lambda: sample_value(server, "assay_held", what="items") == len(futures))
        scorer.gate.set()
        for future in futures:
            future.result(10)
    assert scorer.scored_ids == ["first", "training", "evaluation", "batch"]


def test_what_gathers_while_the_model_works_is_one_batch_up_to_the_pixel_budget(scorer: MeanScorer) -> None:
    with (
        serve_in_background([scorer], max_batch_pixels=5 * 256) as server,
        RewardClient([server.target], batch_items=2) as client,
    ):
        first = client.submit([grey(0)], scorer="mean", **plain(1, "wait"))
        wait_for(lambda: len(scorer.scored_ids) == 1)
        rest = client.submit(greys(12), scorer="mean", **plain(12))
        wait_for(lambda: sample_value(server, "assay_held", what="items") == 13)
        scorer.gate.set()
        first.result(10)
        rest.result(10)
    assert [len(batch) for batch in scorer.batches[1:]] == [1, 5, 5, 2]


def test_out_of_memory_lowers_the_budget_for_good() -> None:
    scorer = MeanScorer(fits_items=4)
    with serve_in_background([scorer]) as server, RewardClient([server.target]) as client:
        for _ in range(2):
            outcomes = client.score(greys(16), scorer="mean", **plain(16))
            assert [round(outcome.value * 255) for outcome in outcomes if isinstance(outcome, Scored)] == list(
                range(16)
            )
        assert sample_value(server, "assay_pixel_budget", scorer="mean") == 4 * 256
    assert [len(batch) for batch in scorer.batches[-4:]] == [4, 4, 4, 4]


def test_timing_says_where_the_time_went(server: BackgroundServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        timing = pb_grpc.RewardServiceStub(channel).Score(request(3, "sleep 0.05"), timeout=10).timing
    assert timing.batch_items == 3
    assert 0.15e9 <= timing.infer_ns < 0.5e9
    assert timing.infer_ns + timing.queue_ns <= timing.total_ns < 1e9


def test_two_scorers_share_one_model_thread() -> None:
    threads: set[int] = set()
    overlapping = []
    busy = threading.Lock()

    class Watched(MeanScorer):
        def score(self, batch: Any) -> Any:
            threads.add(threading.get_ident())
            overlapping.append(not busy.acquire(blocking=False))
            try:
                return super().score(batch)
            finally:
                busy.release()

    with serve_in_background([Watched("a"), Watched("b")]) as server, RewardClient([server.target]) as client:
        futures = [client.submit([grey(0)], scorer=name, **plain(1, "sleep 0.01")) for name in "ab" * 8]
        for future in futures:
            future.result(10)
    assert len(threads) == 1
    assert not any(overlapping)


def test_invalid_arguments_are_refused_before_anything_is_sent(client: RewardClient) -> None:
    with pytest.raises(InvalidRequestError, match="lengths differ"):
        client.score(greys(2), scorer="mean", **plain(3))
    with pytest.raises(InvalidRequestError, match=r"images\[1\]"):
        client.score([grey(0), "not an image"], scorer="mean", **plain(2))
    with pytest.raises(InvalidRequestError, match=r"tasks\[0\]"):
        client.score([grey(0)], scorer="mean", prompts=[""], tasks=[{"include": []}])
    with pytest.raises(InvalidRequestError, match="training, evaluation, batch"):
        client.score([grey(0)], scorer="mean", priority="urgent", **plain(1))
