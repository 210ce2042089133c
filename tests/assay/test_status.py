"""The numbers of `/v1/status`, held against ones worked out by hand."""

import httpx
import pytest
from assay_doubles import MeanScorer, greys, plain

from assay.client import RewardClient
from assay.serving.recent import CALLS, FAILURES, Recent, RecentCalls
from assay.testing import serve_in_background
from assay.v1 import reward_service_pb2 as pb


def timing(total_ms: int) -> pb.Timing:
    return pb.Timing(queue_ns=total_ms * 500_000, infer_ns=total_ms * 500_000, total_ns=total_ms * 1_000_000)


def test_throughput_is_of_the_last_minute_and_forgets() -> None:
    now = [1000.0]
    calls = RecentCalls(lambda: now[0])
    calls.add(6, timing(1))
    calls.add(4, timing(1))
    assert calls.items_per_second() == 0  # the running second is not over
    now[0] = 1002.5
    calls.add(10, timing(1))
    assert calls.items_per_second() == 5  # 10 in two whole seconds
    now[0] = 1040.0
    assert calls.items_per_second() == 0.5
    now[0] = 1061.0
    assert calls.items_per_second() == pytest.approx(10 / 60)  # the first ten are older than a minute
    now[0] = 1100.0
    assert calls.items_per_second() == 0


def test_throughput_without_a_pause_is_the_rate_itself() -> None:
    now = [0.0]
    calls = RecentCalls(lambda: now[0])
    for second in range(200):
        now[0] = second + 0.5
        calls.add(10, timing(1))
    assert calls.items_per_second() == 10


def test_percentiles_are_those_of_the_last_calls() -> None:
    calls = RecentCalls(lambda: 0.0)
    assert calls.latency_ms() == {"calls": 0}
    for total_ms in range(101):
        calls.add(1, timing(total_ms))
    latency = calls.latency_ms()
    assert latency["calls"] == 101
    assert latency["total"] == {"p50": 50.0, "p95": 95.0}
    assert latency["queue"] == {"p50": 25.0, "p95": 47.5}
    for _ in range(CALLS):
        calls.add(1, timing(7))
    assert calls.latency_ms() == {
        "calls": CALLS,
        "queue": {"p50": 3.5, "p95": 3.5},
        "decode": {"p50": 0.0, "p95": 0.0},
        "infer": {"p50": 3.5, "p95": 3.5},
        "total": {"p50": 7.0, "p95": 7.0},
    }


def test_failures_are_bounded_and_the_oldest_go_first() -> None:
    recent = Recent(["mean"], lambda: 5.0)
    for number in range(FAILURES + 3):
        recent.fail("mean", "INTERNAL", "X", 1, str(number))
    assert [failure.request_id for failure in recent.failures] == [str(number) for number in range(3, FAILURES + 3)]


def test_the_status_of_a_server_that_did_something() -> None:
    scorer = MeanScorer()
    with serve_in_background([scorer], http_port=0, max_queued_items=100, token="sixteen-characters") as server:
        with RewardClient([server.target], token="sixteen-characters", batch_items=8) as client:
            client.score(greys(8), scorer="mean", **plain(8))
            client.score(greys(3), scorer="mean", **plain(3, "refuse"))
        httpx.get(f"{server.http_url}/v1/status")
        headers = {"authorization": "Bearer sixteen-characters"}
        status = httpx.get(f"{server.http_url}/v1/status", headers=headers).json()
    [told] = status["scorers"]
    by_size = {bucket["up_to"]: bucket["batches"] for bucket in told["batches"] if bucket["batches"]}
    assert by_size == {8: 1, 4: 1}  # of eight items, and of three
    assert (told["name"], told["fingerprint"], told["queued_items"]) == ("mean", "f1", 0)
    assert status["held"]["items"] == {"now": 0, "limit": 100}
    assert status["state"] == "ready"
    assert {(entry["code"], entry["reason"], entry["count"]) for entry in status["items"]} == {
        ("OK", "", 8),
        ("INVALID_ARGUMENT", "REFUSED", 3),
    }
    assert [failure["reason"] for failure in status["recent_failures"]] == ["REFUSED"]
    assert status["failed_authentications"] == [{"door": "http", "why": "TOKEN_MISSING", "count": 1}]


def test_a_defect_of_ours_is_not_counted_as_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_in_background([MeanScorer()], http_port=0) as server:

        def broken(*arguments: object) -> None:
            raise KeyError("x")

        monkeypatch.setattr(server.service._decoder, "measure", broken)
        item = {"images": [{"width": 8, "height": 8, "rgb8": "AAAA" * 64}]}
        answer = httpx.post(f"{server.http_url}/v1/score", json={"scorer": "mean", "items": [item]})
        assert answer.status_code == 500
        status = httpx.get(f"{server.http_url}/v1/status").json()
    assert [(entry["code"], entry["count"]) for entry in status["calls"]] == [("INTERNAL", 1)]
