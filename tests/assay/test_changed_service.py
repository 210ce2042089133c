"""A service that was reconfigured, or got another address, while a client runs."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from assay_doubles import MeanScorer, grey, greys, plain

from assay.client import RewardClient
from assay.errors import InvalidRequestError
from assay.outcomes import Failed, Scored
from assay.serving.scorer import Limits
from assay.testing import BackgroundServer, serve_in_background


@pytest.fixture
def restart() -> Iterator[Callable[[MeanScorer], BackgroundServer]]:
    """Serves a scorer in the place of the one before, at the same address."""
    context, port = None, 0

    def serve(scorer: MeanScorer) -> BackgroundServer:
        nonlocal context, port
        if context is not None:
            context.__exit__(None, None, None)
        context = serve_in_background([scorer], grpc_port=port)
        server = context.__enter__()
        port = int(server.target.rsplit(":", 1)[1])
        return server

    yield serve
    if context is not None:
        context.__exit__(None, None, None)


def test_calls_are_cut_anew_for_a_service_that_takes_less_than_before(
    restart: Callable[[MeanScorer], BackgroundServer],
) -> None:
    server = restart(MeanScorer(limits=Limits(max_items=8)))
    with RewardClient([server.target], deadline_s=20) as client:
        client.score(greys(8), scorer="mean", **plain(8))
        for limits in (Limits(max_items=3), Limits(max_bytes_per_call=2 * grey(0).nbytes)):
            scorer = MeanScorer(limits=limits)
            restart(scorer)
            outcomes = client.score(greys(8), scorer="mean", **plain(8))
            assert [outcome.value for outcome in outcomes if isinstance(outcome, Scored)] == [v / 255 for v in range(8)]
            assert sorted(scorer.scored_ids) == [str(index) for index in range(8)]


def test_what_is_larger_than_all_that_the_service_takes_stays_refused(
    restart: Callable[[MeanScorer], BackgroundServer],
) -> None:
    server = restart(MeanScorer())
    with RewardClient([server.target], deadline_s=20) as client:
        client.list_scorers()
        restart(MeanScorer(limits=Limits(max_bytes_per_call=1000)))
        large, small = client.score([grey(1, width=64), grey(2)], scorer="mean", **plain(2))
    assert isinstance(large, Failed)
    assert large.reason == "ITEM_TOO_LARGE"
    assert isinstance(small, Scored)


def test_an_item_that_was_too_large_is_sent_to_a_service_that_takes_it_by_now(
    restart: Callable[[MeanScorer], BackgroundServer],
) -> None:
    server = restart(MeanScorer(limits=Limits(max_bytes_per_call=100)))
    with RewardClient([server.target], deadline_s=20) as client:
        [refused] = client.score([grey(1)], scorer="mean", **plain(1))
        assert isinstance(refused, Failed)
        restart(MeanScorer())
        assert client.score([grey(1)], scorer="mean", **plain(1)) == [Scored(1 / 255, MEASURED)]


MEASURED = {"mean": 1 / 255, "pixels": 256.0}


def test_limits_that_no_answer_explains_are_an_error_and_no_endless_question(server: BackgroundServer) -> None:
    """The server takes smaller messages than its scorers say."""
    with RewardClient([server.target], deadline_s=20) as client, pytest.raises(InvalidRequestError):
        client.score([grey(1, width=1024, height=1024)], scorer="mean", **plain(1))


def test_a_call_that_is_too_large_for_a_replica_is_halved_whatever_another_says_that_it_takes(
    server: BackgroundServer,
) -> None:
    """As while a service is restarted replica by replica."""
    images = greys(5, width=400, height=400)  # of which two make a message that the server takes
    with RewardClient([server.target], deadline_s=20) as client:
        outcomes = client.score(images, scorer="mean", **plain(5))
    assert [outcome.value for outcome in outcomes if isinstance(outcome, Scored)] == [v / 255 for v in range(5)]


@pytest.fixture
def server() -> Iterator[BackgroundServer]:
    with serve_in_background([MeanScorer()], max_message_bytes=1000) as server:
        yield server


def test_the_limits_of_a_redeployed_scorer_are_asked_for_again(
    restart: Callable[[MeanScorer], BackgroundServer],
) -> None:
    server = restart(MeanScorer(limits=Limits(max_items=2)))
    with RewardClient([server.target], deadline_s=20) as client:
        client.score(greys(4), scorer="mean", **plain(4))
        scorer = MeanScorer(fingerprint="f2")
        restart(scorer)
        client.score(greys(2), scorer="mean", **plain(2))
        client.score(greys(4), scorer="mean", **plain(4))
    assert client.statistics.calls == 4  # 2 of two items, then one of two, then one of four


@contextmanager
def name_server(address: list[str]) -> Iterator[str]:
    """A DNS server for which every name has the one IPv4 address that stands in `address`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        threading.Thread(target=_answer, args=(listening, address), daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.sendto(b"", listening.getsockname())


def _answer(listening: socket.socket, address: list[str]) -> None:
    while data := listening.recvfrom(512):
        question, asker = data
        if not question:
            return
        end = question.index(b"\0", 12) + 5
        is_version_4 = question[end - 4 : end - 2] == b"\0\1"
        header = question[:2] + struct.pack(">5H", 0x8180, 1, int(is_version_4), 0, 0)
        record = b"\xc0\x0c" + struct.pack(">2HIH", 1, 1, 0, 4) + socket.inet_aton(address[0])
        listening.sendto(header + question[12:end] + (record if is_version_4 else b""), asker)


def test_a_name_whose_only_address_has_changed_is_found_again_in_seconds() -> None:
    """As a container that was recreated: gRPC by itself would not look the name up again for 30 s."""
    address = ["127.0.0.2"]
    with name_server(address) as asked, serve_in_background([MeanScorer()], host="127.0.0.2") as first:
        port = first.target.rsplit(":", 1)[1]
        with RewardClient([f"dns://{asked}/geneval.example:{port}"], deadline_s=15) as client:
            assert isinstance(client.score([grey(0)], scorer="mean", **plain(1))[0], Scored)
            first.stop()
            with serve_in_background([MeanScorer()], host="127.0.0.3", grpc_port=int(port)):
                address[0] = "127.0.0.3"
                assert isinstance(client.score([grey(0)], scorer="mean", **plain(1))[0], Scored)


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # where nobody listens
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve_in_background([MeanScorer()]) as server, RewardClient([server.target]) as client:
        assert client.list_scorers(5)[0].name == "mean"
