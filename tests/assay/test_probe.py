"""The probe says SERVING only of a server that serves: an orchestrator sends calls where it does."""

import socket
import threading
import time

import pytest
from assay_doubles import MeanScorer

from assay.serving import probe
from assay.testing import serve_in_background


def test_a_server_that_serves_is_healthy_and_needs_no_token(capsys: pytest.CaptureFixture[str]) -> None:
    with serve_in_background([MeanScorer()], token="secret") as server:
        assert probe.main([server.target]) == 0
        assert probe.main([server.target, "assay.v1.RewardService"]) == 0
        assert probe.main([server.target, "mean"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{server.target} SERVING"


def test_a_service_that_is_not_there_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    with serve_in_background([MeanScorer()]) as server:
        assert probe.main([server.target, "beauty"]) == 1
    assert "beauty NOT_FOUND" in capsys.readouterr().out


def test_a_server_that_drains_is_not_healthy() -> None:
    with serve_in_background([MeanScorer()], drain_notice_s=2.0) as server:
        draining = threading.Thread(target=server.drain)
        draining.start()
        deadline = time.monotonic() + 1.5
        while (state := probe.health_of(server.target)) == "SERVING" and time.monotonic() < deadline:
            time.sleep(0.02)
        draining.join()
    assert state == "NOT_SERVING"


def test_nobody_there_fails_at_once_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        assert probe.main([f"127.0.0.1:{bound.getsockname()[1]}"]) == 1
    assert "UNAVAILABLE: " in capsys.readouterr().out


def test_a_server_that_hangs_fails_after_the_deadline(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        started = time.monotonic()
        assert probe.main([f"127.0.0.1:{listening.getsockname()[1]}"]) == 1
        assert time.monotonic() - started < 2 * probe.DEADLINE_S
    assert "DEADLINE_EXCEEDED" in capsys.readouterr().out


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with serve_in_background([MeanScorer()]) as server:
        assert probe.main([server.target]) == 0


@pytest.mark.parametrize("arguments", [[], ["a:1", "b", "c"]])
def test_wrong_arguments_are_told_apart(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(arguments) == 2
    assert "usage" in capsys.readouterr().err
