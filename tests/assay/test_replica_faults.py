"""Replicas in processes of their own that are paused, killed and restarted under load: no call fails."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from assay_doubles import MeanScorer, grey, greys, plain
from assay_processes import ServerProcess

from assay.background_loop import run_in_background
from assay.client import RewardClient
from assay.grpc_options import server_options
from assay.outcomes import Outcome, Scored
from assay.serving import grpc_server
from assay.testing import serve_in_background

Start = Callable[..., ServerProcess]


class Load:
    """Threads that score without a pause, and what they saw."""

    def __init__(self, client: RewardClient) -> None:
        self.scored = 0
        self.wrong: list[object] = []
        self._client = client
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def wait_for(self, further: int) -> None:
        """Until as many more calls have been answered."""
        wanted, deadline_s = self.scored + further, time.monotonic() + 60
        while self.scored < wanted:
            assert time.monotonic() < deadline_s, self._client.statistics
            assert not self.wrong
            time.sleep(0.01)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                outcomes: list[Any] = self._client.score(greys(2), scorer="mean", **plain(2, "sleep 0.002"))
                self._check(outcomes)
            except Exception as error:
                self.wrong.append(error)

    def _check(self, outcomes: list[Outcome]) -> None:
        values = [round(outcome.value * 255) if isinstance(outcome, Scored) else outcome for outcome in outcomes]
        with self._lock:
            self.scored += 1
            self.wrong += [] if values == [0, 1] else [values]

    @contextmanager
    def running(self) -> Iterator["Load"]:
        threads = [threading.Thread(target=self._run) for _ in range(6)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join(60)
        assert not any(thread.is_alive() for thread in threads), "a call never came back"
        assert self.wrong == []


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    servers: list[ServerProcess] = []
    try:
        for _ in range(3):
            servers.append(ServerProcess(tmp_path_factory.mktemp("replica")))
        yield servers
    finally:
        for server in servers:
            server.process.send_signal(signal.SIGCONT)
            server.kill()


def wait_until_up(client: RewardClient, target: str, expected: bool) -> None:
    deadline_s = time.monotonic() + 30
    while client.statistics.replicas[target].is_up is not expected:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.parametrize("hedge_budget", [0.0, 0.05], ids=["probes alone", "hedging"])
def test_a_paused_replica_is_given_up_and_comes_back(three: list[ServerProcess], hedge_budget: float) -> None:
    """Its kernel takes connections and requests, and nobody answers: a stopped process, a cut network."""
    paused = three[0]
    options = {"deadline_s": 60, "hedge_budget": hedge_budget, "unresponsive_after_s": 0.8}
    with RewardClient([server.grpc for server in three], **options) as client, Load(client).running() as load:
        load.wait_for(50)
        paused.process.send_signal(signal.SIGSTOP)
        wait_until_up(client, paused.grpc, False)
        load.wait_for(10)  # those that it held have been answered elsewhere
        sent = client.statistics.replicas[paused.grpc].calls
        load.wait_for(100)
        assert client.statistics.replicas[paused.grpc].calls == sent
        paused.process.send_signal(signal.SIGCONT)
        wait_until_up(client, paused.grpc, True)
        load.wait_for(50)
        assert client.statistics.replicas[paused.grpc].calls > sent


def test_when_all_are_paused_the_last_is_not_given_up(three: list[ServerProcess]) -> None:
    """Where should its calls go? They wait, and are answered when it goes on."""
    with RewardClient([server.grpc for server in three], deadline_s=60, unresponsive_after_s=0.4) as client:
        client.list_scorers()
        for server in three:
            server.process.send_signal(signal.SIGSTOP)
        future = client.submit(greys(30), scorer="mean", **plain(30))
        time.sleep(2.0)
        assert any(replica.is_up for replica in client.statistics.replicas.values())
        for server in three:
            server.process.send_signal(signal.SIGCONT)
        assert all(isinstance(outcome, Scored) for outcome in future.result(30))


def test_killed_replicas_all_of_them_at_once_too_lose_no_call(start_server: Start) -> None:
    servers = [start_server() for _ in range(2)]
    with RewardClient([server.grpc for server in servers], deadline_s=60) as client, Load(client).running() as load:
        load.wait_for(30)
        servers[0].kill()
        load.wait_for(30)
        servers[1].kill()
        time.sleep(1.0)  # nobody is there
        for server in servers:
            start_server(grpc_port=server.grpc_port)
        load.wait_for(60)
        assert client.statistics.retried > 0


def test_connections_that_the_server_ends_for_their_age_lose_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_connection_age`: the server sends GOAWAY, and new calls need a new connection."""

    def young(max_request_bytes: int) -> list[tuple[str, object]]:
        ages = {"grpc.max_connection_age_ms": 300, "grpc.max_connection_age_grace_ms": 5_000}
        return list({**dict(server_options(max_request_bytes)), **ages}.items())

    monkeypatch.setattr(grpc_server, "server_options", young)
    with serve_in_background([MeanScorer()]) as server, RewardClient([server.target], deadline_s=30) as client:
        client.list_scorers()
        channel = client._connection._pool.replicas[0]._channel

        async def ends(times: int) -> None:
            for _ in range(times):
                while channel.get_state() != grpc.ChannelConnectivity.READY:
                    await channel.wait_for_state_change(channel.get_state())
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)

        with Load(client).running() as load:
            run_in_background(ends(4)).result(30)
            load.wait_for(10)


def test_large_calls_to_a_paused_replica_are_sent_elsewhere(three: list[ServerProcess]) -> None:
    """A request larger than the socket's buffers stands half sent when its replica stops."""
    images = [grey(value, width=512, height=512) for value in range(16)]
    options = {"deadline_s": 60, "hedge_budget": 0.0, "unresponsive_after_s": 1.5, "batch_items": 16}
    with RewardClient([server.grpc for server in three], **options) as client:
        client.score(greys(48), scorer="mean", **plain(48))  # a connection to each
        three[1].process.send_signal(signal.SIGSTOP)
        try:
            futures = [client.submit(images, scorer="mean", **plain(16)) for _ in range(6)]
            assert all(isinstance(outcome, Scored) for future in futures for outcome in future.result(50))
        finally:
            three[1].process.send_signal(signal.SIGCONT)
