"""Scores of items that come again: the same as without a cache, judged once, and never those of another item."""

import asyncio
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from assay_doubles import MeanScorer, grey, greys, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from waiting import wait_for

from assay.client import RewardClient
from assay.errors import ConfigError, DeadlineExceededError, ServiceFailedError
from assay.images import encode
from assay.outcomes import Detection, Evidence, Failed, Outcome, Scored
from assay.serving import batcher
from assay.serving.metrics import Metrics
from assay.serving.model_thread import ModelThread
from assay.serving.outcome_cache import ENTRY_BYTES, OutcomeCache, key_of
from assay.serving.scorer import Sample, ScorerInfo
from assay.serving.scorer_host import make_hosts
from assay.serving.settings import ServeConfig
from assay.tasks import GenEvalTask, ObjectClause, OutcomeTask, PointingTask, PotentialTask, SpatialTask, Task
from assay.testing import BackgroundServer, FaultInjector, serve_in_background
from assay.v1 import reward_service_pb2 as pb
from assay.v1 import reward_service_pb2_grpc as pb_grpc
from assay.wire import result_to_proto

MIB = 2**20
INFO = MeanScorer().info
METRICS = Metrics()


class TellingScorer(MeanScorer):
    """Its scores depend on all that a sample holds but its id, and are no two alike."""

    def _score(self, sample: Sample) -> Outcome:
        outcome = super()._score(sample)
        if isinstance(outcome, Failed):
            return outcome
        shape = ",".join("x".join(map(str, image.shape)) for image in sample.images)
        first = sum(float(image.ravel()[0]) for image in sample.images)
        box = Detection(shape, 0.5, (0.0, 0.0, 1.0, 1.0), None)
        evidence = Evidence((box,), sample.prompt, repr(sample.task), ((1.0, 2.0),))
        return Scored(outcome.value, {"first": first, **outcome.components}, evidence)


def counted(server: BackgroundServer, result: str, scorer: str = "mean") -> float:
    labels = {"scorer": scorer, "result": result}
    return server.service.metrics.registry.get_sample_value("assay_cache_items_total", labels) or 0.0


@pytest.fixture
def server(scorer: MeanScorer) -> Iterator[BackgroundServer]:
    with serve_in_background([scorer], http_port=0, max_cache_bytes=MIB) as server:
        yield server


def sample_of(
    pixels: bytes = bytes(18), shape: tuple[int, ...] = (2, 3, 3), prompt: str = "", task: Task | None = None
) -> Sample:
    return Sample("x", (np.frombuffer(pixels, np.uint8).reshape(shape),), prompt, task)


# --- what decides a score decides the key


DIFFERENT: list[tuple[Sample, ScorerInfo]] = [
    (sample_of(), INFO),
    (sample_of(bytes(17) + b"\1"), INFO),
    (sample_of(shape=(3, 2, 3)), INFO),
    (sample_of(shape=(1, 6, 3)), INFO),
    (sample_of(prompt="a cat"), INFO),
    (sample_of(prompt="a cat', None"), INFO),
    (sample_of(task=OutcomeTask()), INFO),
    (sample_of(task=OutcomeTask("a cat")), INFO),
    (sample_of(task=PointingTask()), INFO),
    (sample_of(task=PotentialTask(1, 12)), INFO),
    (sample_of(task=PotentialTask(11, 2)), INFO),
    (sample_of(task=SpatialTask("a", "b", "c")), INFO),
    (sample_of(task=SpatialTask("a', 'b", "", "c")), INFO),
    (sample_of(task=GenEvalTask("counting", (ObjectClause("cat", 2),))), INFO),
    (sample_of(task=GenEvalTask("counting", (), (ObjectClause("cat", 2),))), INFO),
    (sample_of(task=GenEvalTask("counting", (ObjectClause("cat", 2, "red"),))), INFO),
    (sample_of(task=GenEvalTask("counting", (ObjectClause("cat", 2, None, ("above", 0)),))), INFO),
    (sample_of(), MeanScorer("other").info),
    (sample_of(), MeanScorer(fingerprint="f2").info),
    (Sample("x", sample_of().images * 2, "", None), INFO),
    # Two images of half the height have the same bytes, one after the other.
    (Sample("x", sample_of(bytes(9), (1, 3, 3)).images * 2, "", None), INFO),
    (Sample("x", (*sample_of(bytes(9), (1, 3, 3)).images, *sample_of(bytes(9), (3, 1, 3)).images), "", None), INFO),
]


def test_nothing_that_decides_a_score_is_left_out_of_the_key() -> None:
    keys = [key_of(sample, info) for sample, info in DIFFERENT]
    assert len(set(keys)) == len(DIFFERENT)
    assert {len(key) for key in keys} == {32}


def test_the_key_does_not_hold_what_decides_nothing() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    sample = Sample("a", (pixels,), "p", OutcomeTask())
    apart = np.zeros((4, 10, 3), np.uint8)[:, ::2]  # the same pixels, not one after the other in memory
    apart[:] = pixels
    assert key_of(sample, INFO) == key_of(Sample("b", (apart,), "p", OutcomeTask()), INFO)


# --- the answers are those of a server without


@st.composite
def items(draw: st.DrawFn) -> tuple[NDArray[np.uint8], str, Task | None]:
    height, width = draw(st.sampled_from([(8, 12), (12, 8), (8, 8)]))
    image = np.zeros((height, width, 3), np.uint8)
    image.flat[draw(st.integers(0, 1))] = draw(st.sampled_from([0, 200]))
    prompt = draw(st.sampled_from(["", "a", "refuse", "poison"]))
    task = draw(st.sampled_from([None, OutcomeTask(), OutcomeTask("?"), PotentialTask(1, 2)]))
    return image, prompt, task


@pytest.fixture(scope="module")
def twins() -> Iterator[tuple[RewardClient, RewardClient]]:
    """Of a server that keeps scores, and of one that does not. The cache is small: scores come and go."""
    with (
        serve_in_background([TellingScorer()], max_cache_bytes=20 * ENTRY_BYTES) as keeping,
        serve_in_background([TellingScorer()]) as other,
        RewardClient([keeping.target]) as first,
        RewardClient([other.target]) as second,
    ):
        yield first, second


def without_error_ids(outcomes: Sequence[Outcome]) -> list[object]:
    return [
        (one.code, one.reason, one.message.partition("error id")[0]) if isinstance(one, Failed) else one
        for one in outcomes
    ]


@settings(deadline=None, max_examples=30)
@given(st.lists(items(), min_size=1, max_size=12), st.booleans())
def test_with_a_cache_every_outcome_is_as_without(
    twins: tuple[RewardClient, RewardClient], asked: list[tuple[Any, str, Task | None]], evidence: bool
) -> None:
    images, prompts, tasks = zip(*asked, strict=True)
    given_by = [
        client.score(images, scorer="mean", prompts=prompts, tasks=tasks, evidence=evidence) for client in twins
    ]
    assert without_error_ids(given_by[0]) == without_error_ids(given_by[1])


def test_an_image_whose_bytes_are_those_of_another_shape_is_another(
    client: RewardClient, server: BackgroundServer
) -> None:
    wide = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    tall = wide.reshape(12, 8, 3)
    scores = client.score([wide], scorer="mean", evidence=True, **plain(1))
    scores += client.score([tall], scorer="mean", evidence=True, **plain(1))
    boxes = [one.evidence.detections[0].box for one in scores if isinstance(one, Scored) and one.evidence is not None]
    assert boxes == [(0.0, 0.0, 12.0, 8.0), (0.0, 0.0, 8.0, 12.0)]
    assert (counted(server, "hit"), counted(server, "miss")) == (0, 2)


def test_pixels_are_known_again_however_they_come_and_evidence_whoever_asks(
    client: RewardClient, server: BackgroundServer, scorer: MeanScorer
) -> None:
    image = grey(51)
    [bare] = client.score([image], scorer="mean", **plain(1))
    [full] = client.score([encode(image, "PNG")], scorer="mean", evidence=True, **plain(1))
    assert bare == Scored(0.2, {"mean": 0.2, "pixels": 256.0})
    assert isinstance(full, Scored)
    assert full.evidence is not None
    assert full.evidence.reason == "because"
    assert len(scorer.scored_ids) == 1
    assert counted(server, "hit") == 1


# --- judged once


def test_what_was_scored_is_not_scored_again_and_the_answer_says_so(
    server: BackgroundServer, scorer: MeanScorer
) -> None:
    message = pb.ScoreRequest(scorer="mean", items=[item_of(grey(value), str(value)) for value in range(8)])
    with grpc.insecure_channel(server.target) as channel:
        stub = pb_grpc.RewardServiceStub(channel)
        first = stub.Score(message, timeout=10)
        del message.items[6:]
        message.items.append(item_of(grey(99), "new"))
        again = stub.Score(message, timeout=10)
        del message.items[6:]
        known = stub.Score(message, timeout=10)
    assert [result.id for result in again.results] == ["0", "1", "2", "3", "4", "5", "new"]
    assert [result.score.value for result in known.results] == [value / 255 for value in range(6)]
    assert [(one.timing.batch_items, one.timing.spared_items) for one in (first, again, known)] == [
        (8, 0),
        (1, 6),
        (0, 6),
    ]
    assert known.timing.infer_ns == 0
    assert known.timing.total_ns >= known.timing.decode_ns > 0
    assert scorer.scored_ids == [*"01234567", "new"]


def test_equal_items_of_a_call_are_one_to_the_model(
    client: RewardClient, server: BackgroundServer, scorer: MeanScorer
) -> None:
    images = [grey(7), grey(7), grey(8), grey(7)]
    outcomes = client.score(images, scorer="mean", **plain(4))
    assert [one.value * 255 for one in outcomes if isinstance(one, Scored)] == pytest.approx([7, 7, 8, 7])
    assert scorer.batches[1:] == [["0", "2"]]  # after the warm-up
    assert [counted(server, result) for result in ("miss", "shared", "hit")] == [2, 2, 0]


def test_calls_that_ask_the_same_while_it_is_scored_wait_for_its_score(
    client: RewardClient, server: BackgroundServer, scorer: MeanScorer
) -> None:
    first, *others = [
        client.submit([grey(7)], scorer="mean", ids=[str(number)], **plain(1, "wait")) for number in range(5)
    ]
    wait_for(lambda: len(scorer.scored_ids) == 1 and queued(server) == 4)
    scorer.gate.set()
    assert [future.result(10) for future in others] == [first.result(10)] * 4
    assert len(scorer.scored_ids) == 1
    assert (counted(server, "miss"), counted(server, "hit")) == (1, 4)


@pytest.mark.parametrize("model_has_it", [True, False])
def test_that_the_first_who_asks_is_cancelled_does_not_fail_the_second(
    client: RewardClient, server: BackgroundServer, scorer: MeanScorer, model_has_it: bool
) -> None:
    holding = held_up(client, scorer) if not model_has_it else None
    first = client.submit([grey(7)], scorer="mean", ids=["first"], **plain(1, "wait"))
    wait_for(lambda: "first" in scorer.scored_ids if model_has_it else queued(server) == 1)
    second = client.submit([grey(7)], scorer="mean", ids=["second"], **plain(1, "wait"))
    wait_for(lambda: queued(server) == (1 if model_has_it else 2))
    first.cancel()
    wait_for(lambda: server.service.calls_in_flight == (1 if model_has_it else 2))
    scorer.gate.set()
    assert second.result(10)[0] == Scored(7 / 255, {"mean": 7 / 255, "pixels": 256.0})
    assert scorer.scored_ids == (["first"] if model_has_it else ["held", "second"])
    if holding is not None:
        holding.result(10)


def test_an_urgent_call_does_not_wait_for_the_place_of_an_equal_one(
    client: RewardClient, server: BackgroundServer, scorer: MeanScorer
) -> None:
    """Single flight must not tie training to the rank, or the deadline, of a batch job that asked first."""
    holding = held_up(client, scorer)
    batch = client.submit([grey(7), grey(8)], scorer="mean", ids=["b7", "b8"], priority="batch", **plain(2))
    late = client.submit([grey(7)], scorer="mean", ids=["late"], deadline_s=0.2, **plain(1))
    training = client.submit([grey(7)], scorer="mean", ids=["t7"], priority="training", **plain(1))
    wait_for(lambda: queued(server) == 4)
    with pytest.raises(DeadlineExceededError):
        late.result(10)
    wait_for(lambda: server.service.calls_in_flight == 3)
    scorer.gate.set()
    assert isinstance(training.result(10)[0], Scored)
    assert all(isinstance(one, Scored) for one in batch.result(10))
    holding.result(10)
    assert scorer.batches[-1] == ["t7", "b8"]


# --- failures


def test_what_failed_is_tried_again() -> None:
    """A scorer that fails now and then; a fault on the way, too."""
    flaky = MeanScorer("flaky")
    score, fails = flaky._score, threading.Event()

    def sometimes(sample: Sample) -> Outcome:
        if fails.is_set():
            raise RuntimeError("the accelerator has a bad day")
        return score(sample)

    flaky._score = sometimes  # type: ignore[method-assign]
    faults = FaultInjector(reply_lost=1.0, faults=1)
    with (
        serve_in_background([flaky], faults=faults, max_cache_bytes=MIB) as server,
        RewardClient([server.target]) as client,
    ):
        fails.set()
        for _ in range(2):
            outcomes = client.score([grey(1), grey(1)], scorer="flaky", **plain(2))
            assert [one.reason for one in outcomes if isinstance(one, Failed)] == ["SCORER_RAISED"] * 2
        assert len(server.service.cache) == 0
        fails.clear()
        [outcome] = client.score([grey(1)], scorer="flaky", **plain(1))
        assert isinstance(outcome, Scored)
        # Its reply was lost, and the client asked again: the work was not lost.
        assert faults.counts["reply_lost"] == 1
        assert counted(server, "miss", "flaky") + counted(server, "hit", "flaky") == 4
        assert len(server.service.cache) == 1


@pytest.mark.parametrize("prompt", ["refuse", "nan", "poison"])
def test_no_kind_of_failure_is_kept(
    client: RewardClient, server: BackgroundServer, scorer: MeanScorer, prompt: str
) -> None:
    for _ in range(2):
        assert isinstance(client.score([grey(1)], scorer="mean", **plain(1, prompt))[0], Failed)
    assert len(scorer.scored_ids) == 2
    assert len(server.service.cache) == 0


def test_a_defect_of_ours_leaves_nobody_waiting(
    client: RewardClient, server: BackgroundServer, scorer: MeanScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("x")

    holding = held_up(client, scorer)
    twins = [client.submit([grey(1)], scorer="mean", **plain(1)) for _ in range(2)]  # of two calls, in one batch
    wait_for(lambda: queued(server) == 2)
    monkeypatch.setattr(batcher, "score_isolated", broken)
    scorer.gate.set()
    for future in twins:
        with pytest.raises(ServiceFailedError):
            future.result(10)
    monkeypatch.undo()
    assert isinstance(holding.result(10)[0], Scored)
    assert isinstance(client.score([grey(1)], scorer="mean", **plain(1))[0], Scored)


BAD_SCORES: list[Scored] = [
    Scored(0.5, {}, Evidence((), "half of a pair: \ud83d")),
    Scored(np.array(0.5)),  # type: ignore[arg-type]
    Scored(0.5, {7: 0.5}),  # type: ignore[dict-item]
]


@pytest.mark.parametrize("bad", BAD_SCORES, ids=["text", "value", "components"])
@pytest.mark.parametrize("max_cache_bytes", [0, MIB])
def test_a_score_that_cannot_be_told_fails_its_own_call_and_no_other(
    scorer: MeanScorer, bad: Scored, max_cache_bytes: int
) -> None:
    score = scorer._score
    scorer._score = lambda sample: bad if sample.prompt == "bad" else score(sample)  # type: ignore[method-assign]
    with (
        serve_in_background([scorer], max_cache_bytes=max_cache_bytes) as server,
        RewardClient([server.target], deadline_s=5) as client,
    ):
        holding = held_up(client, scorer)
        ill = client.submit([grey(1)], scorer="mean", evidence=True, **plain(1, "bad"))
        well = client.submit([grey(2)], scorer="mean", evidence=True, **plain(1))
        wait_for(lambda: queued(server) == 2)  # they are of one batch
        scorer.gate.set()
        with pytest.raises(ServiceFailedError):
            ill.result(10)
        assert isinstance(well.result(10)[0], Scored)
        assert isinstance(holding.result(10)[0], Scored)
        assert isinstance(client.score([grey(3)], scorer="mean", **plain(1))[0], Scored)
        assert len(server.service.cache) == (3 if max_cache_bytes else 0)


def test_a_defect_after_scoring_leaves_nobody_waiting(
    client: RewardClient, server: BackgroundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(server.service.cache, "put", broken)
    with pytest.raises(ServiceFailedError):
        client.score([grey(1)], scorer="mean", **plain(1))
    monkeypatch.undo()
    assert isinstance(client.score([grey(1)], scorer="mean", **plain(1))[0], Scored)


def test_bad_items_beside_known_ones_fail_alone(client: RewardClient, scorer: MeanScorer) -> None:
    client.score([grey(1)], scorer="mean", **plain(1))
    outcomes = client.score([b"GIF89a", grey(1), grey(2)], scorer="mean", **plain(3))
    assert [type(one) for one in outcomes] == [Failed, Scored, Scored]
    assert scorer.scored_ids == ["0", "2"]


# --- what is known is no work


def test_what_is_known_fills_no_queue_and_is_never_too_late(scorer: MeanScorer) -> None:
    with (
        serve_in_background([scorer], max_cache_bytes=MIB, max_queued_items=4) as server,
        RewardClient([server.target], deadline_s=20) as client,
    ):
        client.score(greys(3), scorer="mean", **plain(3))
        takes_half_an_hour_an_item(server)
        held = client.submit([*greys(3), grey(9)], scorer="mean", deadline_s=7200, **plain(4, ""))
        assert all(isinstance(one, Scored) for one in held.result(10))
        with pytest.raises(DeadlineExceededError, match="scoring would take about"):
            client.score([grey(77)], scorer="mean", **plain(1))
        assert all(isinstance(one, Scored) for one in client.score(greys(3), scorer="mean", **plain(3)))
        wait = client.submit([*greys(3), grey(10)], scorer="mean", deadline_s=7200, **plain(4, "wait"))
        wait_for(lambda: len(scorer.scored_ids) == 8)
        assert server.service.admission.current.items == 4
        scorer.gate.set()
        wait.result(10)
        scorer.gate.clear()
        known = client.submit([*greys(3), grey(11)], scorer="mean", deadline_s=7200, **plain(4, "wait"))
        wait_for(lambda: len(scorer.scored_ids) == 9)
        assert server.service.admission.current.items == 1  # three of the four are known
        assert server.service.admission.current.pixels == 4 * 256  # but they are in memory until the call ends
        scorer.gate.set()
        known.result(10)
    assert server.service.admission.current.items == server.service.admission.current.pixels == 0


def test_equal_items_of_a_call_take_the_time_of_one(client: RewardClient, server: BackgroundServer) -> None:
    takes_half_an_hour_an_item(server)
    with pytest.raises(DeadlineExceededError, match="scoring would take about 3600"):
        client.score([grey(1), grey(1), grey(2)], scorer="mean", deadline_s=3000, **plain(3))
    outcomes = client.score([grey(1)] * 3, scorer="mean", deadline_s=3000, **plain(3))
    assert all(isinstance(one, Scored) for one in outcomes)


def test_what_the_model_has_now_is_not_too_late_for_who_asks_the_same(
    client: RewardClient, server: BackgroundServer, scorer: MeanScorer
) -> None:
    takes_half_an_hour_an_item(server)
    first = client.submit([grey(7)], scorer="mean", deadline_s=7200, **plain(1, "wait"))
    wait_for(lambda: len(scorer.scored_ids) == 1)
    again = client.submit([grey(7)], scorer="mean", deadline_s=60, **plain(1, "wait"))
    wait_for(lambda: queued(server) == 1)
    assert server.service.admission.current.items == 2  # nobody knows its score yet
    with pytest.raises(DeadlineExceededError, match="scoring would take about"):
        client.score([grey(7), grey(8)], scorer="mean", deadline_s=60, **plain(2, "wait"))
    scorer.gate.set()
    assert again.result(10) == first.result(10)
    assert len(scorer.scored_ids) == 1
    takes_half_an_hour_an_item(server)
    with pytest.raises(DeadlineExceededError, match="scoring would take about"):  # once the model is done, no more
        client.score([grey(8)], scorer="mean", deadline_s=60, **plain(1, "wait"))


def test_many_known_items_are_answered_in_turns() -> None:
    """Others use the event loop between a batch's worth of them and the next."""

    async def answered() -> list[int]:
        config = ServeConfig(max_batch_items=4, max_cache_bytes=MIB)
        [host] = make_hosts([MeanScorer()], config).values()
        cache, model_thread = OutcomeCache(MIB, METRICS), ModelThread()
        queue = batcher.Batcher([host], model_thread, METRICS, cache)
        call = asyncio.create_task(queue.score(host, [sample_of()] * 10, [b"key"] * 10, 1, math.inf))
        await asyncio.sleep(0)
        cache.put(b"key", Scored(0.5))
        batching, left = asyncio.create_task(queue.run()), [len(host.queue)]
        while host.queue:
            await asyncio.sleep(0)
            left.append(len(host.queue))
        assert [result.outcome for result in await call] == [Scored(0.5)] * 10
        batching.cancel()
        model_thread.close()
        return left

    assert asyncio.run(answered()) == [10, 6, 2, 0]


# --- bounds, and what is told


def score_of_bytes(size: int) -> Scored:
    """A score that takes `size` bytes in all."""
    for length in range(size):
        score = Scored(0.5, {}, Evidence((), "x" * length))
        if ENTRY_BYTES + result_to_proto("", score, with_evidence=True).ByteSize() == size:
            return score
    raise AssertionError(size)


def test_the_longest_unused_goes_first_and_the_size_is_kept() -> None:
    cache = OutcomeCache(1000, METRICS)
    score = score_of_bytes(300)
    for key in (b"a", b"b", b"c"):
        cache.put(key, score)
    assert (len(cache), cache.bytes) == (3, 900)
    assert cache.get(b"a") == score
    cache.put(b"d", score)
    assert [key in cache for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    cache.put(b"g", score_of_bytes(500))  # takes the place of the two oldest, c and a
    assert ([key for key in (b"a", b"c", b"d", b"g") if key in cache], cache.bytes) == ([b"d", b"g"], 800)
    cache.put(b"e", score_of_bytes(1000))
    assert ([key for key in (b"d", b"g", b"e") if key in cache], cache.bytes) == ([b"e"], 1000)
    cache.put(b"f", score_of_bytes(1001))  # it would never fit: nobody leaves for it
    assert ([key for key in (b"e", b"f") if key in cache], cache.bytes) == ([b"e"], 1000)
    cache.put(b"e", Failed("INTERNAL", "X", ""))
    assert cache.get(b"e") is not None


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2000), st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40))
def test_the_size_is_never_more_than_allowed_and_what_is_got_was_put(
    max_bytes: int, steps: list[tuple[int, bool]]
) -> None:
    cache, put = OutcomeCache(max_bytes, METRICS), set()
    scores = [Scored(number / 7, {"n": number}, Evidence((), "x" * 60 * number)) for number in range(10)]
    for number, reads in steps:
        key = bytes([number])
        if reads:
            assert cache.get(key) == (scores[number] if key in cache else None)
        else:
            cache.put(key, scores[number])
            put.add(key)
        assert ENTRY_BYTES * len(cache) <= cache.bytes <= max_bytes
    assert all(key in put for key in cache._scores)


def test_what_is_pushed_out_is_scored_again(scorer: MeanScorer) -> None:
    with (
        serve_in_background([scorer], max_cache_bytes=3 * ENTRY_BYTES) as server,
        RewardClient([server.target]) as client,
    ):
        for _ in range(2):
            client.score(greys(8), scorer="mean", **plain(8))
        cache = server.service.cache
        assert len(cache) == 2  # with what a score takes beside
        assert 2 * ENTRY_BYTES < cache.bytes <= 3 * ENTRY_BYTES
    assert len(scorer.scored_ids) == 14  # the last two of the first eight were known


def test_metrics_and_status_tell_of_it(client: RewardClient, server: BackgroundServer) -> None:
    client.score([grey(1), grey(1), grey(2)], scorer="mean", **plain(3))
    client.score([grey(1)], scorer="mean", **plain(1))
    cache = httpx.get(f"{server.http_url}/v1/status").json()["cache"]
    assert cache["scores"] == 2
    assert cache["bytes"] == {"now": server.service.cache.bytes, "limit": MIB}
    assert {(entry["result"], entry["count"]) for entry in cache["items"]} == {("miss", 2), ("shared", 1), ("hit", 1)}
    told = httpx.get(f"{server.http_url}/metrics").text
    assert "assay_cache_entries 2.0" in told
    assert f"assay_cache_bytes {float(server.service.cache.bytes)}" in told


def test_without_the_setting_nothing_is_kept_and_nothing_told(scorer: MeanScorer) -> None:
    with serve_in_background([scorer]) as server, RewardClient([server.target]) as client:
        for _ in range(2):
            client.score([grey(1), grey(1)], scorer="mean", **plain(2))
        assert len(scorer.scored_ids) == 4
        assert "assay_cache_items_total{" not in server.service.metrics.exposition().decode()


def test_scores_that_differ_from_time_to_time_are_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    drawn, mean = MeanScorer("drawn", deterministic=False), MeanScorer()
    with (
        serve_in_background([drawn, mean], max_cache_bytes=MIB) as server,
        RewardClient([server.target]) as client,
    ):
        for name in ("drawn", "mean", "drawn", "mean"):
            client.score([grey(1), grey(1)], scorer=name, **plain(2))
    assert (len(drawn.scored_ids), len(mean.scored_ids)) == (4, 1)
    assert "scores of drawn are not kept: it is not deterministic" in caplog.text
    with (
        pytest.raises(ConfigError, match=r"max_cache_bytes = 1048576: .* drawn is not"),
        serve_in_background([drawn], max_cache_bytes=MIB),
    ):
        pass


def item_of(image: NDArray[np.uint8], item_id: str) -> pb.ScoreItem:
    height, width, _ = image.shape
    return pb.ScoreItem(
        id=item_id, images=[pb.Image(rgb=pb.RgbImage(width=width, height=height, rgb8=image.tobytes()))]
    )


def takes_half_an_hour_an_item(server: BackgroundServer) -> None:
    """As the server believes."""
    times = server.service.hosts[0].service_time
    times._batches.clear()
    for size in (1, 2):
        times.observe(size, 1800.0 * size)


def queued(server: BackgroundServer) -> int:
    return len(server.service.hosts[0].queue)


def held_up(client: RewardClient, scorer: MeanScorer) -> "Future[list[Outcome]]":
    """A call that the model works on until the gate opens."""
    future = client.submit([grey(200)], scorer="mean", ids=["held"], **plain(1, "wait"))
    wait_for(lambda: scorer.scored_ids == ["held"])
    return future
