"""A head of a Ray cluster that does not answer for too long ends the run; one that answers again does not."""

import socket
import time

import pytest

from pipelines.engine import ray_head
from pipelines.engine.batch import BatchStoppedError
from pipelines.engine.ray_head import RayHead


def test_a_silent_head_ends_the_run_and_a_short_silence_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        head = RayHead(f"{host}:{port}")
        assert not head.look()  # it is too early
        now += ray_head.LOOK_S
        assert head.look()
    now += ray_head.SILENT_S
    assert not head.look()
    with socket.create_server((host, port)):
        now += ray_head.LOOK_S
        assert head.look()
    now += ray_head.SILENT_S
    assert not head.look()
    assert not head.answers()
    now += ray_head.LOOK_S
    with pytest.raises(BatchStoppedError, match=f"the head of the Ray cluster, {host}:{port}, is gone"):
        head.look()
