"""The client divides, balances, retries elsewhere and never makes up a score."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import grpc
import numpy as np
import pytest
from assay_doubles import MeanScorer, grey, greys, plain
from PIL import Image
from waiting import wait_for

from assay.byte_budget import ByteBudget
from assay.client import RewardClient
from assay.errors import (
    AssayError,
    ClientClosedError,
    ConfigError,
    DeadlineExceededError,
    FingerprintMismatchError,
    ServiceFailedError,
    ServiceUnavailableError,
)
from assay.outcomes import Failed, Outcome, Scored
from assay.serving.scorer import Limits
from assay.tasks import GenEvalTask
from assay.testing import BackgroundServer, FaultInjector, serve_in_background


@pytest.fixture
def server() -> Iterator[BackgroundServer]:
    with serve_in_background([MeanScorer()]) as server:
        yield server


def values(outcomes: list[Outcome]) -> list[int]:
    return [round(outcome.value * 255) for outcome in outcomes if isinstance(outcome, Scored)]


@pytest.mark.parametrize("encoding", ["rgb", "png", "webp"])
def test_lossless_encodings_give_the_same_scores(server: BackgroundServer, encoding: str) -> None:
    images = [np.random.default_rng(seed).integers(0, 256, (24, 40, 3), dtype=np.uint8) for seed in range(5)]
    with RewardClient([server.target], encoding=encoding) as client:
        outcomes = client.score(images, scorer="mean", **plain(5))
    assert [outcome.value for outcome in outcomes if isinstance(outcome, Scored)] == [
        float(image.mean()) / 255 for image in images
    ]


def test_jpeg_only_comes_near(server: BackgroundServer) -> None:
    with RewardClient([server.target], encoding="jpeg") as client:
        [outcome] = client.score([grey(100)], scorer="mean", **plain(1))
    assert isinstance(outcome, Scored)
    assert outcome.value == pytest.approx(100 / 255, abs=0.01)


def test_pil_images_arrays_and_geneval_metadata_are_taken(server: BackgroundServer) -> None:
    metadata = {"tag": "counting", "include": [{"class": "apple", "count": 3}]}
    images = [Image.fromarray(grey(7)), grey(9), Image.new("L", (16, 16), 11)]
    with RewardClient([server.target]) as client:
        outcomes = client.score(
            images, scorer="mean", prompts=[""] * 3, tasks=[metadata, GenEvalTask.from_metadata(metadata), None]
        )
    assert values(outcomes) == [7, 9, 11]


def test_buffers_may_be_overwritten_after_submit(server: BackgroundServer) -> None:
    image = grey(42)
    with RewardClient([server.target]) as client:
        future = client.submit([image], scorer="mean", **plain(1))
        image[:] = 0
        assert values(future.result(10)) == [42]


def test_calls_keep_batch_items_and_the_limits_of_the_service() -> None:
    scorer = MeanScorer(limits=Limits(max_items=5, max_bytes_per_call=4 * 768))
    with serve_in_background([scorer]) as server, RewardClient([server.target], batch_items=16) as client:
        outcomes = client.score([*greys(11), grey(0, width=64, height=64)], scorer="mean", **plain(12))
        calls = server.service.metrics.registry.get_sample_value(
            "assay_calls_total", {"scorer": "mean", "code": "OK", "reason": ""}
        )
    assert values(outcomes[:11]) == list(range(11))
    assert calls == 3
    assert isinstance(outcomes[11], Failed)
    assert (outcomes[11].code, outcomes[11].reason) == ("INVALID_ARGUMENT", "ITEM_TOO_LARGE")


def test_no_images_give_no_outcomes(server: BackgroundServer) -> None:
    with RewardClient([server.target]) as client:
        assert client.score([], scorer="mean", **plain(0)) == []


def test_outcomes_come_as_they_are_ready(server: BackgroundServer) -> None:
    prompts = ["sleep 0.3"] + [""] * 3
    with RewardClient([server.target], batch_items=1) as client:
        arrived = list(client.as_completed(greys(4), scorer="mean", prompts=prompts, tasks=[None] * 4))
        assert sorted(index for index, _ in arrived) == [0, 1, 2, 3]
        assert all(values([outcome]) == [index] for index, outcome in arrived)
        first = next(client.as_completed(greys(4), scorer="mean", **plain(4)))
        assert first[0] in range(4)


def test_leaving_the_loop_takes_the_rest_from_the_service() -> None:
    scorer = MeanScorer()
    with serve_in_background([scorer], max_batch_items=1) as server:
        with RewardClient([server.target], batch_items=1) as client:
            arriving = client.as_completed(greys(30), scorer="mean", **plain(30, "sleep 0.02"))
            next(arriving)
            arriving.close()
            time.sleep(0.3)
        assert len(scorer.scored_ids) < 10


def test_coroutines_of_any_loop_can_score(server: BackgroundServer) -> None:
    async def score() -> list[list[Outcome]]:
        with RewardClient([server.target]) as client:
            return await asyncio.gather(*(client.score_async(greys(3), scorer="mean", **plain(3)) for _ in range(4)))

    assert [values(outcomes) for outcomes in asyncio.run(score())] == [[0, 1, 2]] * 4


def test_several_threads_may_share_a_client(server: BackgroundServer) -> None:
    results: dict[int, list[int]] = {}
    with RewardClient([server.target]) as client:

        def work(offset: int) -> None:
            results[offset] = values(client.score([grey(offset)] * 20, scorer="mean", **plain(20)))

        threads = [threading.Thread(target=work, args=(offset,)) for offset in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert results == {offset: [offset] * 20 for offset in range(8)}


def test_retries_work_at_a_megabyte() -> None:
    """gRPC's own retries silently stop at 256 KiB."""
    faults = FaultInjector(aborted=1.0, abort_code=grpc.StatusCode.UNAVAILABLE, faults=3)
    with serve_in_background([MeanScorer()], faults=faults) as server, RewardClient([server.target]) as client:
        [outcome] = client.score([grey(80, width=640, height=640)], scorer="mean", **plain(1))
    assert values([outcome]) == [80]
    assert faults.counts == {"calls": 4, "aborted": 3}


def test_a_call_that_a_stopping_server_drops_is_sent_again() -> None:
    """gRPC's Python server ends calls that arrive in the moment of its stop with CANCELLED, unseen by any handler."""
    faults = FaultInjector(aborted=1.0, abort_code=grpc.StatusCode.CANCELLED, faults=2)
    with serve_in_background([MeanScorer()], faults=faults) as server, RewardClient([server.target]) as client:
        assert values(client.score([grey(80)], scorer="mean", **plain(1))) == [80]
    assert faults.counts == {"calls": 3, "aborted": 2}


@pytest.mark.parametrize("fault", ["request_lost", "reply_lost", "delayed"])
def test_lost_calls_and_replies_lose_no_score(fault: str) -> None:
    faults = FaultInjector(seed=3, delay_s=0.02, **{fault: 0.4})
    with (
        serve_in_background([MeanScorer()], faults=faults) as server,
        RewardClient([server.target], batch_items=2, deadline_s=30) as client,
    ):
        assert values(client.score(greys(120), scorer="mean", **plain(120))) == list(range(120))
    assert faults.counts[fault] >= 5


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "ABORTED", "DATA_LOSS", "RESOURCE_EXHAUSTED"])
def test_other_failures_are_raised_and_not_retried(code: str) -> None:
    faults = FaultInjector(aborted=1.0, abort_code=grpc.StatusCode[code])
    with serve_in_background([MeanScorer()], faults=faults) as server, RewardClient([server.target]) as client:
        with pytest.raises(AssayError, match="injected: aborted") as caught:
            client.score([grey(0)], scorer="mean", **plain(1))
        assert caught.value.targets == (server.target,)
    assert faults.counts["calls"] == 1


def test_a_failing_call_stops_the_others() -> None:
    faults = FaultInjector(seed=1, aborted=0.2)
    scorer = MeanScorer()
    with (
        serve_in_background([scorer], faults=faults, max_batch_items=1) as server,
        RewardClient([server.target], batch_items=1) as client,
    ):
        with pytest.raises(ServiceFailedError):
            client.score(greys(40), scorer="mean", **plain(40, "sleep 0.02"))
        time.sleep(0.1)
        assert len(scorer.scored_ids) < 20


def test_a_busy_service_is_waited_for() -> None:
    with (
        serve_in_background([MeanScorer()], max_queued_items=4) as server,
        RewardClient([server.target], batch_items=2, deadline_s=30) as client,
    ):
        assert values(client.score(greys(40), scorer="mean", **plain(40, "sleep 0.002"))) == list(range(40))
        refused = server.service.metrics.registry.get_sample_value(
            "assay_calls_total", {"scorer": "mean", "code": "UNAVAILABLE", "reason": "QUEUE_FULL"}
        )
        assert refused is not None


def test_a_service_that_stays_full_is_unavailable_at_the_deadline() -> None:
    scorer = MeanScorer()
    with (
        serve_in_background([scorer], max_queued_items=1) as server,
        RewardClient([server.target]) as client,
    ):
        holding = client.submit([grey(0)], scorer="mean", **plain(1, "wait"))
        while not scorer.scored_ids:
            time.sleep(0.01)
        started_s = time.monotonic()
        with pytest.raises(ServiceUnavailableError, match="queue is full") as caught:
            client.score([grey(0)], scorer="mean", deadline_s=0.5, **plain(1))
        assert caught.value.reason == "QUEUE_FULL"
        assert time.monotonic() - started_s < 5
        scorer.gate.set()
        holding.result(10)


def test_the_deadline_holds() -> None:
    with serve_in_background([MeanScorer()]) as server, RewardClient([server.target]) as client:
        started_s = time.monotonic()
        with pytest.raises(DeadlineExceededError) as caught:
            client.score([grey(0)], scorer="mean", deadline_s=0.3, **plain(1, "sleep 1"))
        assert time.monotonic() - started_s < 0.9
        assert isinstance(caught.value, TimeoutError)


def test_work_goes_to_the_replica_with_the_fewest_pixels() -> None:
    slow, fast = MeanScorer(), MeanScorer()
    with (
        serve_in_background([slow]) as first,
        serve_in_background([fast]) as second,
        RewardClient([first.target, second.target], batch_items=1, max_bytes_in_flight=8 * 768) as client,
    ):
        slow.score = _held(slow, lambda: len(fast.scored_ids) >= 40)  # type: ignore[method-assign]
        outcomes = client.score(greys(60), scorer="mean", **plain(60, ""))
    assert values(outcomes) == list(range(60))
    assert len(fast.scored_ids) > 2 * len(slow.scored_ids) > 0


def _held(scorer: MeanScorer, until: Callable[[], bool]) -> object:
    score = scorer.score

    def held(batch: object) -> object:
        wait_for(until)
        return score(batch)  # type: ignore[arg-type]

    return held


def test_one_big_image_weighs_as_much_as_many_small_ones() -> None:
    first, second = MeanScorer(), MeanScorer()
    with (
        serve_in_background([first]) as one,
        serve_in_background([second]) as two,
        RewardClient([one.target, two.target], batch_items=1) as client,
    ):
        images = [grey(0, width=256, height=256), *greys(16)]
        client.score(images, scorer="mean", **plain(17, "sleep 0.02"))
    assert sorted([len(first.scored_ids), len(second.scored_ids)]) == [1, 16]


def test_a_replica_with_other_weights_is_noticed_without_a_pin() -> None:
    with (
        serve_in_background([MeanScorer(fingerprint="old")]) as one,
        serve_in_background([MeanScorer(fingerprint="new")]) as two,
        RewardClient([one.target, two.target], batch_items=1) as client,
        pytest.raises(FingerprintMismatchError, match="several fingerprints: new, old"),
    ):
        client.score(greys(8), scorer="mean", **plain(8))


def test_bytes_in_flight_stay_bounded(server: BackgroundServer) -> None:
    with RewardClient([server.target], batch_items=1, max_bytes_in_flight=2000) as client:
        budget = client._connection._budget
        future = client.submit(greys(50), scorer="mean", **plain(50, "sleep 0.002"))
        most = 0
        while not future.done():
            most = max(most, budget.in_flight)
            time.sleep(0.0005)  # the client's loop needs the interpreter, too
        assert values(future.result()) == list(range(50))
        assert 0 < most <= 2000
        assert budget.in_flight == 0


def test_a_cancelled_wait_gives_its_room_back() -> None:
    async def scenario() -> None:
        budget = ByteBudget(10)

        async def hold(size: int, held: asyncio.Event, release: asyncio.Event) -> None:
            async with budget.hold(size):
                held.set()
                await release.wait()

        held, release = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(hold(8, held, release))
        await held.wait()
        waiting = asyncio.create_task(hold(8, asyncio.Event(), release))
        small = asyncio.create_task(hold(2, asyncio.Event(), release))
        await asyncio.sleep(0)
        assert budget.in_flight == 8  # first come, first served: the small one waits behind the large one
        waiting.cancel()
        await asyncio.sleep(0.01)
        assert budget.in_flight == 10
        release.set()
        await asyncio.gather(first, small)
        assert budget.in_flight == 0

    asyncio.run(scenario())


def test_closing_ends_what_is_under_way(server: BackgroundServer) -> None:
    client = RewardClient([server.target])
    future = client.submit([grey(0)], scorer="mean", **plain(1, "sleep 0.5"))
    client.close()
    client.close()
    with pytest.raises(CancelledError):
        future.result(5)
    with pytest.raises(ClientClosedError):
        client.score([grey(0)], scorer="mean", **plain(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": []}, "at least one address"),
        ({"targets": "localhost:1"}, "give a list"),
        ({"targets": ["localhost:1"], "encoding": "bmp"}, "rgb, png, webp, jpeg"),
        ({"targets": ["localhost:1"], "batch_items": 0}, "at least 1"),
        ({"targets": ["localhost:1"], "tls_ca": "/nowhere/ca.pem"}, "cannot read /nowhere/ca.pem"),
        ({"targets": ["localhost:1"], "tls_key": Path("k")}, "give both or neither"),
    ],
)
def test_wrong_settings_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RewardClient(**arguments)  # type: ignore[arg-type]
