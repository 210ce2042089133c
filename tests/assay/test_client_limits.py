"""No client starves the others, and a client is told apart by its token, its certificate or its address."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from assay_doubles import MeanScorer
from hypothesis import given
from hypothesis import strategies as st

from assay.serving.client_limits import MAX_CLIENTS, ClientLimits, ClientShares
from assay.serving.rejection import Rejection
from assay.testing import BackgroundServer, serve_in_background
from assay.v1 import reward_service_pb2 as pb
from assay.v1 import reward_service_pb2_grpc as pb_grpc

GREEDY, OTHER = "greedy-0123456789", "other-0123456789"


def shares(now: list[float], **limits: float) -> ClientShares:
    return ClientShares(ClientLimits.model_validate(limits), lambda: now[0])


def refusal(held: ClientShares, client: str, items: int) -> Rejection | None:
    try:
        with held.take(client, items):
            return None
    except Rejection as rejection:
        return rejection


def test_calls_and_items_under_way_are_bounded_for_each_client() -> None:
    held = shares([0.0], max_calls=2, max_items=10)
    with held.take("a", 3), held.take("a", 3):
        refused = refusal(held, "a", 1)
        assert refused is not None
        assert (refused.code, refused.reason, refused.metadata["bound"]) == ("UNAVAILABLE", "CLIENT_LIMIT", "max_calls")
        assert refused.retry_after_s is not None
        assert refusal(held, "b", 9) is None
    with held.take("a", 9):
        assert "9 items are under way, 2 more asked for" in str(refusal(held, "a", 2))
        assert refusal(held, "a", 1) is None
    assert refusal(held, "a", 64) is None  # alone, however large


def test_a_rate_allows_bursts_of_a_second_and_debts_are_worked_off() -> None:
    now = [0.0]
    held = shares(now, items_per_second=10)
    assert refusal(held, "a", 25) is None  # credit was 10, is now -15
    refused = refusal(held, "a", 1)
    assert refused is not None
    assert refused.retry_after_s == pytest.approx(1.5)
    assert refusal(held, "b", 1) is None
    now[0] = 1.6
    assert refusal(held, "a", 1) is None


def test_a_call_that_is_refused_further_in_costs_no_rate() -> None:
    held = shares([0.0], items_per_second=10)
    with pytest.raises(Rejection, match="too many"), held.take("a", 100_000):
        raise Rejection("INVALID_ARGUMENT", "TOO_MANY_ITEMS", "too many")
    assert refusal(held, "a", 10) is None


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 20)), max_size=60))
def test_no_client_gets_much_more_than_its_rate(steps: list[tuple[float, int]]) -> None:
    now, passed = [0.0], 0
    held = shares(now, items_per_second=10)
    for pause_s, items in steps:
        now[0] += pause_s
        passed += items if refusal(held, "a", items) is None else 0
    assert passed <= 10 * (now[0] + 1) + 20  # the burst, and the call that overdrew


def test_clients_that_come_and_go_are_forgotten_and_busy_ones_are_not() -> None:
    held = shares([0.0], max_calls=1)
    with held.take("busy", 1):
        for number in range(MAX_CLIENTS + 10):
            assert refusal(held, str(number), 1) is None
        assert len(held._uses) <= MAX_CLIENTS
        assert refusal(held, "busy", 1) is not None


@pytest.fixture
def server(scorer: MeanScorer, tmp_path: Path) -> Iterator[BackgroundServer]:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"greedy {GREEDY}\nother {OTHER}\n")
    limits = {"max_calls": 1}
    with serve_in_background([scorer], http_port=0, token_file=tokens, client_limits=limits) as server:
        yield server


def test_one_holder_s_calls_do_not_count_for_another_at_either_door(
    server: BackgroundServer, scorer: MeanScorer
) -> None:
    image = pb.Image(rgb=pb.RgbImage(width=8, height=8, rgb8=bytes(192)))
    items = [{"images": [{"width": 8, "height": 8, "rgb8": "AAAA" * 64}]}]

    def by_grpc(token: str, prompt: str = "") -> grpc.StatusCode:
        message = pb.ScoreRequest(scorer="mean", items=[pb.ScoreItem(images=[image], prompt=prompt)])
        with grpc.insecure_channel(server.target) as channel:
            try:
                stub = pb_grpc.RewardServiceStub(channel)
                stub.Score(message, metadata=[("authorization", f"Bearer {token}")], timeout=20)
            except grpc.RpcError as error:
                return error.code()
        return grpc.StatusCode.OK

    def by_http(token: str) -> int:
        headers = {"authorization": f"Bearer {token}"}
        body = {"scorer": "mean", "items": items}
        return httpx.post(f"{server.http_url}/v1/score", json=body, headers=headers, timeout=20).status_code

    first = threading.Thread(target=by_grpc, args=(GREEDY, "wait"))
    first.start()
    deadline_s = time.monotonic() + 10
    while server.service.calls_in_flight == 0:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert by_grpc(GREEDY) == grpc.StatusCode.UNAVAILABLE
    assert by_http(GREEDY) == 429
    scorer.gate.set()
    assert by_grpc(OTHER) == grpc.StatusCode.OK
    assert by_http(OTHER) == 200
    first.join(10)
    assert by_http(GREEDY) == 200
