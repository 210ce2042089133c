"""Who has no token cannot make a server hold much: not by large messages, nor slow ones, nor many."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import grpc
import pytest
from assay_doubles import MeanScorer, grey, plain
from assay_processes import ServerProcess
from grpc_health.v1 import health_pb2, health_pb2_grpc
from waiting import wait_for

from assay import grpc_options
from assay.client import MIB, RewardClient
from assay.outcomes import Scored
from assay.serving import open_calls
from assay.testing import BackgroundServer, serve_in_background

TOKEN = "a-token-of-sixteen-or-more"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
OWN = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module")
def server() -> Iterator[BackgroundServer]:
    with serve_in_background([MeanScorer()], http_port=0, token=TOKEN, max_failed_attempts_per_minute=1000) as server:
        yield server


@pytest.fixture
def silence() -> Iterator[Callable[[], Iterator[bytes]]]:
    """The messages of callers who send none until the test is over."""
    over = threading.Event()

    def messages() -> Iterator[bytes]:
        over.wait(30)
        yield from ()

    yield messages
    over.set()


@pytest.mark.parametrize(
    "method",
    [
        "/assay.v1.RewardService/Score",
        "/assay.v1.RewardService/ListScorers",
        "/grpc.health.v1.Health/List",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/there.is.no/Such",
    ],
)
def test_a_stranger_is_refused_before_there_is_a_message(
    server: BackgroundServer, method: str, silence: Callable[[], Iterator[bytes]]
) -> None:
    with grpc.insecure_channel(server.target, OWN) as channel:
        assert channel.stream_stream(method)(silence(), timeout=5).code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_stranger_s_large_message_is_not_received(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, token=TOKEN, http_port="null")
    try:
        before = most_memory(server)
        with grpc.insecure_channel(server.grpc, OWN) as channel:
            call = channel.unary_unary("/assay.v1.RewardService/Score").future(bytes(60 * MIB), timeout=60)
            assert call.code() == grpc.StatusCode.UNAUTHENTICATED
        assert most_memory(server) - before < 20 * MIB
    finally:
        server.kill()


def most_memory(server: ServerProcess) -> int:
    """Bytes that the process has held at most."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def test_http_refuses_a_stranger_before_there_is_a_body(server: BackgroundServer) -> None:
    connection = HTTPConnection((server.http_url or "").removeprefix("http://"), timeout=10)
    connection.putrequest("POST", "/v1/score")
    connection.putheader("content-length", str(60 * MIB))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 401
    assert json.load(answer)["error"]["details"][0]["reason"] == "TOKEN_MISSING"
    connection.close()


def test_slow_questions_about_health_end_and_of_an_address_few_are_received_at_once(
    server: BackgroundServer, monkeypatch: pytest.MonkeyPatch, silence: Callable[[], Iterator[bytes]]
) -> None:
    monkeypatch.setattr(open_calls, "RECEIVE_S", 0.3)
    with grpc.insecure_channel(server.target, OWN) as channel:
        started_s = time.monotonic()
        slow = [channel.stream_unary(CHECK).future(silence(), timeout=20) for _ in range(3)]
        slow += [channel.stream_stream(WATCH)(silence(), timeout=20)]
        assert [call.code() for call in slow] == [grpc.StatusCode.DEADLINE_EXCEEDED] * 4
        assert time.monotonic() - started_s >= 0.59  # two after two
        assert checked(channel) == grpc.StatusCode.OK


def checked(channel: grpc.Channel) -> grpc.StatusCode:
    """How a question about health ends; OK only if the server says that it serves."""
    call = health_pb2_grpc.HealthStub(channel).Check.future(health_pb2.HealthCheckRequest(), timeout=10)
    if call.code() == grpc.StatusCode.OK:
        assert call.result().status == health_pb2.HealthCheckResponse.SERVING
    return call.code()


@pytest.mark.parametrize("method", [CHECK, WATCH])
def test_a_question_about_health_that_is_no_name_is_refused(server: BackgroundServer, method: str) -> None:
    large = health_pb2.HealthCheckRequest(service="x" * MIB).SerializeToString()
    with grpc.insecure_channel(server.target, OWN) as channel:
        for messages in (iter([large]), iter([b"\xff\xff"]), iter([])):
            assert channel.stream_stream(method)(messages, timeout=5).code() == grpc.StatusCode.INVALID_ARGUMENT


def test_who_watches_health_is_told_and_only_so_many_watch_from_one_address(
    server: BackgroundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_calls, "CALLS_AT_ONCE", 3)
    with grpc.insecure_channel(server.target, OWN) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watching = [stub.Watch(health_pb2.HealthCheckRequest(service="mean"), timeout=20) for _ in range(3)]
        assert [next(call).status for call in watching] == [health_pb2.HealthCheckResponse.SERVING] * 3
        assert checked(channel) == grpc.StatusCode.RESOURCE_EXHAUSTED
        watching[0].cancel()
        wait_for(lambda: checked(channel) == grpc.StatusCode.OK)


def test_only_so_many_connections_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_options, "MAX_CONNECTIONS", 2)
    with serve_in_background([MeanScorer()]) as server, ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(server.target, OWN)) for _ in range(3)]
        assert [checked(channel) for channel in channels[:2]] == [grpc.StatusCode.OK] * 2
        assert checked(channels[2]) == grpc.StatusCode.UNAVAILABLE
        channels[0].close()
        wait_for(lambda: checked(channels[2]) == grpc.StatusCode.OK)


def test_more_calls_than_a_connection_may_carry_are_scored_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_options, "MAX_CALLS", 4)
    with (
        serve_in_background([MeanScorer()]) as server,
        RewardClient([server.target], batch_items=1, deadline_s=20) as client,
    ):
        outcomes = client.score([grey(7)] * 40, scorer="mean", **plain(40))
    assert all(isinstance(outcome, Scored) for outcome in outcomes)
