"""A name that stands for several addresses is several replicas, also when its addresses change in mid-run."""

import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from assay_doubles import MeanScorer, grey, greys, plain
from waiting import wait_for

from assay import replica_pool
from assay.addresses import is_name, look_up, resolve
from assay.background_loop import run_in_background
from assay.channel_security import ChannelSecurity
from assay.client import RewardClient
from assay.errors import DeadlineExceededError, ServiceUnavailableError
from assay.outcomes import Scored
from assay.replica_pool import ReplicaPool
from assay.replicas import Address
from assay.testing import BackgroundServer, serve_in_background

SEVERAL = ["10.0.0.2", "10.0.0.1"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("geneval:50051", True),
        ("dns:geneval:50051", True),
        ("dns:///geneval.default.svc.cluster.local:50051", True),
        ("localhost:1", True),
        ("127.0.0.1:50051", False),
        ("[::1]:50051", False),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", False),
        ("dns://8.8.8.8/geneval:50051", False),
        ("unix:/run/assay.sock", False),
        ("unix:relative:1", False),
        ("xds:///geneval", False),
    ],
)
def test_what_is_a_name(target: str, expected: bool) -> None:
    assert is_name(target) is expected
    if not expected:
        assert look_up(target, lambda host, port: SEVERAL) == [Address(target)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["10.0.0.1"], ["geneval:5"]),
        (["10.0.0.1", "fd00::1"], ["geneval:5"]),  # one host with both families, not two
        (["10.0.0.2", "10.0.0.1", "10.0.0.2"], ["10.0.0.1:5", "10.0.0.2:5"]),
        (["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"], ["10.0.0.1:5", "10.0.0.2:5"]),
        (["10.0.0.1", "fd00::1", "fd00::2"], ["[fd00::1]:5", "[fd00::2]:5"]),
        ([], ["geneval:5"]),
    ],
)
def test_a_name_is_as_many_replicas_as_hosts(found: list[str], expected: list[str]) -> None:
    addresses = look_up("dns:///geneval:5" if len(expected) > 1 else "geneval:5", lambda host, port: found)
    assert [address.target for address in addresses] == expected
    assert {address.authority for address in addresses} == ({None} if len(expected) == 1 else {"geneval:5"})


def test_the_system_knows_localhost() -> None:
    assert set(resolve("localhost", 80)) <= {"127.0.0.1", "::1"}
    with serve_in_background([MeanScorer()]) as server:
        port = server.target.rsplit(":", 1)[1]
        with RewardClient([f"dns:///localhost:{port}"]) as client:
            assert isinstance(client.score([grey(0)], scorer="mean", **plain(1))[0], Scored)
            assert list(client.statistics.replicas) == [f"dns:///localhost:{port}"]


class Cluster:
    """Servers on one port of 127.0.0.1, 127.0.0.2, ..., and what the name for them stands for."""

    def __init__(self, stack: ExitStack, **config: object) -> None:
        self._stack = stack
        self._config = config
        self.port = 0
        self.servers: dict[str, tuple[BackgroundServer, MeanScorer]] = {}
        self.published: Sequence[str] = []
        self.is_down = False
        self.failure: Exception = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        self.asked = 0

    def start(self, *hosts: str) -> None:
        for host in hosts:
            scorer = MeanScorer()
            server = serve_in_background([scorer], host=host, grpc_port=self.port, **self._config)
            self.servers[host] = self._stack.enter_context(server), scorer
            self.port = int(self.servers[host][0].target.rsplit(":", 1)[1])

    def resolver(self, host: str, port: int) -> Sequence[str]:
        assert (host, port) == ("localhost", self.port)
        self.asked += 1
        if self.is_down:
            raise self.failure
        return self.published

    def scored(self, host: str) -> int:
        return len(self.servers[host][1].scored_ids)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(replica_pool, "LOOK_UP_EVERY_S", 0.05)
    monkeypatch.setattr(replica_pool, "LOOK_UP_AGAIN_S", 0.05)
    with ExitStack() as stack:
        yield Cluster(stack)


def test_replicas_come_and_go_and_no_call_is_lost(cluster: Cluster) -> None:
    first, second, third = "127.0.0.1", "127.0.0.2", "127.0.0.3"
    cluster.start(first, second)
    cluster.published = [first, second]
    target = f"localhost:{cluster.port}"
    options = {"resolver": cluster.resolver, "batch_items": 1, "hedge_budget": 0.0}
    with RewardClient([target], **options) as client:
        client.score(greys(20), scorer="mean", **plain(20, "sleep 0.001"))
        assert min(cluster.scored(first), cluster.scored(second)) > 0
        cluster.start(third)
        cluster.published = [second, third]
        under_way = client.submit(greys(60), scorer="mean", **plain(60, "sleep 0.02"))
        wait_for(lambda: list(client.statistics.replicas) == [f"{second}:{cluster.port}", f"{third}:{cluster.port}"])
        before = cluster.scored(third)
        assert all(isinstance(outcome, Scored) for outcome in under_way.result(20))  # drained, not cut off
        cluster.servers[first][0].stop()
        client.score(greys(20), scorer="mean", **plain(20, "sleep 0.001"))
        assert cluster.scored(third) > before
        cluster.is_down = True
        asked = cluster.asked
        wait_for(lambda: cluster.asked > asked + 1)  # a name service that fails takes nobody away
        assert len(client.statistics.replicas) == 2
        assert client.statistics.retried == 0


@pytest.mark.parametrize(
    "failure", [None, UnicodeError("label too long"), KeyError("a resolver's own defect")], ids=repr
)
def test_a_name_that_is_unknown_at_first_is_found_later(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, failure: Exception | None
) -> None:
    caplog.set_level(logging.WARNING)
    cluster.failure = failure or cluster.failure
    cluster.start("127.0.0.2", "127.0.0.3")  # where `localhost` itself leads, nobody listens
    cluster.published, cluster.is_down = ["127.0.0.2", "127.0.0.3"], True
    options = {"resolver": cluster.resolver, "unresponsive_after_s": 0.2}
    with RewardClient([f"localhost:{cluster.port}"], **options) as client:
        with pytest.raises(ServiceUnavailableError):
            client.score([grey(0)], scorer="mean", deadline_s=0.3, **plain(1))
        assert "cannot look up localhost" in caplog.text
        cluster.is_down = False
        assert isinstance(client.score([grey(0)], scorer="mean", deadline_s=20, **plain(1))[0], Scored)


def test_calls_that_wait_go_to_whom_the_name_stands_for_next(cluster: Cluster) -> None:
    cluster.start("127.0.0.1", "127.0.0.2", "127.0.0.3")
    cluster.published = ["127.0.0.4", "127.0.0.5"]  # nobody is there
    options = {"resolver": cluster.resolver, "unresponsive_after_s": 0.2}
    with RewardClient([f"localhost:{cluster.port}"], **options) as client:
        future = client.submit(greys(40), scorer="mean", deadline_s=30, **plain(40))
        wait_for(lambda: cluster.asked > 2)
        cluster.published = ["127.0.0.2", "127.0.0.3"]
        assert all(isinstance(outcome, Scored) for outcome in future.result(20))


def test_a_slow_name_service_is_waited_for_to_the_deadline_and_asked_once(cluster: Cluster) -> None:
    cluster.start("127.0.0.1")
    cluster.published = ["127.0.0.1"]
    answering = threading.Event()

    def slow(host: str, port: int) -> Sequence[str]:
        answering.wait(30)
        return cluster.resolver(host, port)

    with RewardClient([f"localhost:{cluster.port}"], resolver=slow, unresponsive_after_s=100.0) as client:
        try:
            for _ in range(2):
                with pytest.raises(DeadlineExceededError):
                    client.score([grey(0)], scorer="mean", deadline_s=0.1, **plain(1))
            assert cluster.asked == 0
        finally:
            answering.set()
        assert isinstance(client.score([grey(0)], scorer="mean", deadline_s=20, **plain(1))[0], Scored)
        assert cluster.asked == 1


def test_who_falls_silent_and_leaves_the_name_is_given_up_too(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.start("127.0.0.1", "127.0.0.3")

    def resolver(host: str, port: int) -> Sequence[str]:
        cluster.asked += 1
        return ["127.0.0.1", "127.0.0.2"] if cluster.asked == 1 else ["127.0.0.1", "127.0.0.3"]

    options = {"resolver": resolver, "unresponsive_after_s": 0.4, "batch_items": 1, "hedge_budget": 0.0}
    with socket.socket() as silent:
        silent.bind(("127.0.0.2", cluster.port))
        silent.listen()
        with RewardClient([f"localhost:{cluster.port}"], **options) as client:
            future = client.submit(greys(10), scorer="mean", deadline_s=60, **plain(10))
            assert all(isinstance(outcome, Scored) for outcome in future.result(30))
    assert cluster.asked > 1
    assert f"127.0.0.2:{cluster.port} answers nothing" in caplog.text


def test_closing_closes_those_that_are_leaving_too() -> None:
    async def close() -> None:
        pool = ReplicaPool(["127.0.0.1:1"], ChannelSecurity(), 5.0, lambda host, port: [])
        await pool.start(10)
        [gone] = pool.replicas
        pool._follow([])
        await pool.close()
        assert gone._channel.get_state() == grpc.ChannelConnectivity.SHUTDOWN

    run_in_background(close()).result(20)


def test_tls_checks_the_name_and_not_the_number(monkeypatch: pytest.MonkeyPatch, certificates: Path) -> None:
    """The certificate is for localhost and 127.0.0.1; the replicas are at other numbers."""
    tls = {"certificate": certificates / "server.pem", "key": certificates / "server.key"}
    with ExitStack() as stack:
        cluster = Cluster(stack, tls=tls)
        cluster.start("127.0.0.2", "127.0.0.3")
        cluster.published = ["127.0.0.2", "127.0.0.3"]
        ca = certificates / "ca.pem"
        options = {"tls_ca": ca, "batch_items": 1, "deadline_s": 20}
        with RewardClient([f"localhost:{cluster.port}"], resolver=cluster.resolver, **options) as client:
            assert len(client.score(greys(20), scorer="mean", **plain(20, "sleep 0.002"))) == 20
        assert min(cluster.scored("127.0.0.2"), cluster.scored("127.0.0.3")) > 0
        with RewardClient([f"127.0.0.2:{cluster.port}"], tls_ca=ca) as client, pytest.raises(ServiceUnavailableError):
            client.wait_until_ready(0.5)  # called by its number, it has no certificate for it
        wrong = f"someone-else:{cluster.port}"
        with (
            RewardClient([wrong], tls_ca=ca, resolver=lambda host, port: cluster.published) as client,
            pytest.raises(ServiceUnavailableError),
        ):
            client.wait_until_ready(0.5)
