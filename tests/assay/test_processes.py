"""Servers in processes of their own: killed, drained, started again; clients lose nothing."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from assay_doubles import grey, greys, plain
from assay_processes import ServerProcess
from grpc_health.v1 import health_pb2, health_pb2_grpc

from assay.client import RewardClient
from assay.errors import ServiceUnavailableError
from assay.outcomes import Scored

Start = Callable[..., ServerProcess]
HERE = Path(__file__).parent


def check_all(outcomes: list[object]) -> None:
    for value, outcome in enumerate(outcomes):
        assert isinstance(outcome, Scored)
        assert outcome.value == pytest.approx(value / 255)


def test_the_ready_line_names_ports_and_scorers(start_server: Start) -> None:
    server = start_server()
    server.process.terminate()
    code, stdout, _ = server.wait()
    assert code == 0
    assert stdout == f"assay: ready grpc={server.grpc} http={server.http} scorers=mean,other\n"


def test_sigkill_and_restart_on_the_same_port_loses_nothing(start_server: Start) -> None:
    server = start_server()
    with RewardClient([server.grpc], deadline_s=30, batch_items=2) as client:
        future = client.submit(greys(24), scorer="mean", **plain(24, "sleep 0.05"))
        time.sleep(0.3)
        server.kill()
        time.sleep(0.3)
        assert not future.done()
        start_server(grpc_port=server.grpc_port)
        restarted_s = time.monotonic()
        check_all(future.result(20))
        assert time.monotonic() - restarted_s < 6


def test_work_of_a_killed_replica_moves_to_another(start_server: Start) -> None:
    doomed, other = start_server(), start_server()
    with RewardClient([doomed.grpc, other.grpc], deadline_s=30, batch_items=2) as client:
        future = client.submit(greys(40), scorer="mean", **plain(40, "sleep 0.02"))
        time.sleep(0.2)
        doomed.kill()
        check_all(future.result(20))


def test_sigterm_drains_without_losing_a_call(start_server: Start) -> None:
    server = start_server()
    with RewardClient([server.grpc], batch_items=4, deadline_s=20) as client:
        client.wait_until_ready(5)
        future = client.submit(greys(16), scorer="mean", **plain(16, "sleep 0.05"))
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        check_all(future.result(20))
    code, _, stderr = server.wait()
    assert code == 0
    assert "Traceback" not in stderr


def test_health_turns_before_calls_are_refused(start_server: Start) -> None:
    server = start_server(drain_notice_s=0.5)
    with grpc.insecure_channel(server.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        seen = []
        watching = stub.Watch(health_pb2.HealthCheckRequest(service="mean"))

        def watch() -> None:
            with contextlib.suppress(grpc.RpcError):
                seen.extend(update.status for update in watching)

        thread = threading.Thread(target=watch)
        thread.start()
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        with RewardClient([server.grpc], deadline_s=2) as client:
            check_all(client.score([grey(0)], scorer="mean", **plain(1)))
        assert server.wait()[0] == 0
        watching.cancel()
        thread.join(5)
    assert seen == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]


def test_a_second_signal_ends_it_now(start_server: Start) -> None:
    server = start_server(drain_grace_s=60)
    with RewardClient([server.grpc], deadline_s=1) as client:
        future = client.submit([grey(0)], scorer="mean", **plain(1, "sleep 20"))
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        started_s = time.monotonic()
        assert server.wait()[0] == 128 + signal.SIGTERM
        assert time.monotonic() - started_s < 3
        with pytest.raises(ServiceUnavailableError):
            future.result(5)


def test_calls_that_outlive_the_grace_are_retried_elsewhere(start_server: Start) -> None:
    server = start_server(drain_grace_s=0.2)
    with RewardClient([server.grpc], deadline_s=20) as client:
        future = client.submit([grey(51)], scorer="mean", **plain(1, "sleep 1.5"))
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.8)
        start_server(grpc_port=server.grpc_port)
        [outcome] = future.result(15)
        assert isinstance(outcome, Scored)


def test_no_service_at_all_is_one_clear_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
        with RewardClient([target], deadline_s=0.5) as client:
            with pytest.raises(ServiceUnavailableError, match=f"no reward service was ready at {target} within 0.3 s"):
                client.wait_until_ready(0.3)
            with pytest.raises(ServiceUnavailableError, match=target) as caught:
                client.score([grey(0)], scorer="mean", **plain(1))
    assert caught.value.targets == (target,)
    assert isinstance(caught.value, ConnectionError)


def test_a_taken_port_is_one_clear_error(start_server: Start) -> None:
    server = start_server()
    for field, port in (("grpc_port", server.grpc_port), ("http_port", int(server.http.rsplit(":", 1)[1]))):
        second = subprocess.run(
            [sys.executable, str(HERE / "serve_mean.py"), "grpc_port=0", "http_port=0", f"{field}={port}"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in second.stderr
