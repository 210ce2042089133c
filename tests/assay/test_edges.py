"""Whatever arrives, the answer is an outcome for each item or a refusal with a name; readiness is true."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from assay_doubles import MeanScorer, grey
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay.background_loop import run_in_background
from assay.client import RewardClient
from assay.outcomes import Scored
from assay.serving.lifecycle import RunningServer, ServeConfig
from assay.serving.scorer import Limits
from assay.testing import BackgroundServer, serve_in_background
from assay.v1 import reward_service_pb2 as pb
from assay.v1 import reward_service_pb2_grpc as pb_grpc

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def server() -> Iterator[BackgroundServer]:
    limits = Limits(max_items=4, max_bytes_per_call=5000, max_image_side=64, max_pixels_per_image=1024)
    with serve_in_background([MeanScorer(limits=limits), MeanScorer("other", tasks=("GenEvalTask",))]) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server: BackgroundServer) -> Iterator[pb_grpc.RewardServiceStub]:
    with grpc.insecure_channel(server.target) as channel:
        yield pb_grpc.RewardServiceStub(channel)


def request(**fields: Any) -> pb.ScoreRequest:
    image = pb.Image(rgb=pb.RgbImage(width=16, height=16, rgb8=grey(51).tobytes()))
    return pb.ScoreRequest(**{"scorer": "mean", "items": [pb.ScoreItem(images=[image])], **fields})


sides = st.sampled_from([0, 1, 8, 9, 16, 40, 65, 2**31, 2**32 - 1])
rgb_images = st.one_of(
    st.builds(pb.RgbImage, width=sides, height=sides, rgb8=st.binary(max_size=50)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)).map(
        lambda size: pb.RgbImage(width=size[0], height=size[1], rgb8=bytes(size[0] * size[1] * 3))
    ),
)
files = st.builds(pb.EncodedImage, format=st.integers(0, 7), data=st.binary(max_size=80))
images = st.one_of(
    st.builds(lambda image: pb.Image(rgb=image), rgb_images),
    st.builds(lambda image: pb.Image(encoded=image), files),
    st.just(pb.Image()),
)
items = st.builds(
    lambda item_id, item_images, kind: pb.ScoreItem(id=item_id, images=item_images, **kind),
    st.text("abc", max_size=3),
    st.lists(images, max_size=3),
    st.sampled_from([{}, {"geneval": pb.GenEvalTask()}, {"potential": pb.PotentialTask(step=-1)}]),
)
requests = st.builds(
    pb.ScoreRequest,
    scorer=st.sampled_from(["mean", "mean", "other", "", "nope"]),
    items=st.lists(items, max_size=6),
    priority=st.integers(0, 9),
    evidence_level=st.integers(0, 9),
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(requests)
def test_any_request_gets_outcomes_or_a_named_refusal(
    stub: pb_grpc.RewardServiceStub, message: pb.ScoreRequest
) -> None:
    try:
        response = stub.Score(message, timeout=10)
    except grpc.RpcError as error:
        assert error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}, error.details()  # noqa: PT017
        return
    assert [result.id for result in response.results] == [item.id for item in message.items]
    for result in response.results:
        assert result.WhichOneof("outcome") in {"score", "error"}
        assert result.error.code != grpc.StatusCode.INTERNAL.value[0], result.error.message


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_request_are_refused(server: BackgroundServer, data: bytes) -> None:
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary("/assay.v1.RewardService/Score", response_deserializer=pb.ScoreResponse.FromString)
        with pytest.raises(grpc.RpcError):
            call(data, timeout=10)


def test_our_own_defects_stay_opaque(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with serve_in_background([MeanScorer()]) as server, grpc.insecure_channel(server.target) as channel:

        def broken(*arguments: object) -> None:
            raise KeyError("secret /path")

        monkeypatch.setattr(server.service._decoder, "measure", broken)
        with pytest.raises(grpc.RpcError) as caught:
            pb_grpc.RewardServiceStub(channel).Score(request(), timeout=5)
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        assert caught.value.details().startswith("internal error, id ")
        assert "secret" not in str(caught.value.trailing_metadata())
        assert "secret /path" in caplog.text
        assert caught.value.details().rsplit(" ", 1)[1] in caplog.text
        monkeypatch.undo()
        assert len(pb_grpc.RewardServiceStub(channel).Score(request(), timeout=5).results) == 1


def test_not_serving_until_a_sample_was_scored() -> None:
    gate = threading.Event()

    class Slow(MeanScorer):
        def score(self, batch: Any) -> Any:
            gate.wait(10)
            return super().score(batch)

    async def create() -> RunningServer:
        return RunningServer([Slow()], ServeConfig(grpc_port=0, http_port=None))

    running = run_in_background(create()).result()
    starting = run_in_background(running.start())
    with grpc.insecure_channel(running.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        stub = pb_grpc.RewardServiceStub(channel)
        for name in ("", "mean"):
            check = health_pb2.HealthCheckRequest(service=name)
            assert health.Check(check, timeout=5, wait_for_ready=True).status == NOT_SERVING
        for call in (
            lambda: stub.Score(request(), timeout=5),
            lambda: stub.ListScorers(pb.ListScorersRequest(), timeout=5),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "warming up" in caught.value.details()
        gate.set()
        starting.result(10)
        assert health.Check(health_pb2.HealthCheckRequest(service="mean"), timeout=5).status == SERVING
        assert len(stub.Score(request(), timeout=5).results) == 1
    run_in_background(running.stop(None)).result()


def test_reflection_lists_the_services(server: BackgroundServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        [answer] = stub.ServerReflectionInfo(iter([asked]), timeout=5)
    names = {service.name for service in answer.list_services_response.service}
    assert names >= {"assay.v1.RewardService", "grpc.health.v1.Health"}


def test_overload_keeps_memory_bounded_and_loses_nothing() -> None:
    """Four times what the queue holds, all at once: shed, retried, all scored."""
    with (
        serve_in_background([MeanScorer()], max_queued_items=32, max_batch_items=8) as server,
        RewardClient([server.target], batch_items=4, deadline_s=30) as client,
    ):
        most = 0
        future = client.submit([grey(7)] * 128, scorer="mean", prompts=["sleep 0.002"] * 128, tasks=[None] * 128)
        while not future.done():
            most = max(most, server.service.admission.current.items)
            time.sleep(0.001)
        assert all(isinstance(outcome, Scored) for outcome in future.result())
    assert 0 < most <= 32


def test_the_loop_is_free_while_the_model_works() -> None:
    """Health must answer while a batch runs."""
    scorer = MeanScorer()
    with serve_in_background([scorer]) as server, grpc.insecure_channel(server.target) as channel:
        message = request()
        message.items[0].prompt = "wait"
        held = pb_grpc.RewardServiceStub(channel).Score.future(message, timeout=20)
        while not scorer.scored_ids and not scorer.batches[1:]:
            time.sleep(0.005)
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=1).status == SERVING
        scorer.gate.set()
        held.result()


def test_one_loop_a_process() -> None:
    loops = {run_in_background(_running_loop()).result() for _ in range(3)}
    assert len(loops) == 1


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()
