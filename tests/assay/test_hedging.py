"""Late calls get a second copy elsewhere, few do, and a copy is judged as the first would be."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from assay_doubles import MeanScorer, grey, greys, plain
from hypothesis import given
from hypothesis import strategies as st
from waiting import wait_for

from assay import attempts
from assay.client import RewardClient
from assay.errors import FingerprintMismatchError
from assay.hedging import BURST_COPIES, NEEDED_CALLS, RECENT_CALLS, Hedging, RecentLatencies
from assay.outcomes import Scored
from assay.testing import BackgroundServer, serve_in_background


@given(st.lists(st.floats(0.001, 100.0), min_size=1, max_size=2 * RECENT_CALLS + 10), st.floats(0.01, 1.0))
def test_the_quantile_is_that_of_the_recent_calls(seconds: list[float], share: float) -> None:
    latencies = RecentLatencies()
    recent: deque[float] = deque(maxlen=RECENT_CALLS)
    for one in seconds:
        latencies.add(one)
        recent.append(one)
    value = latencies.quantile(share)
    assert value in recent
    assert sum(one <= value for one in recent) >= share * len(recent)
    assert sum(one < value for one in recent) < share * len(recent)


def test_a_call_is_late_after_the_95th_percentile_of_its_size_and_scorer() -> None:
    hedging = Hedging(0.05)
    for hundredths in range(1, 101):
        hedging.observe("mean", 1000, hundredths / 100)
    assert hedging.delay_s("mean", 1000) == pytest.approx(1.0)  # two usual calls of 0.5 s: more than 0.95 s
    for seconds in [0.1] * 94 + [3.0] * 106:
        hedging.observe("mean", 1000, seconds)
    assert hedging.delay_s("mean", 1023) == pytest.approx(6.0)
    assert hedging.delay_s("mean", 1024) is None
    assert hedging.delay_s("other", 1000) is None


def test_a_tail_is_cut_where_it_begins_and_short_calls_get_no_copies() -> None:
    hedging = Hedging(0.05)
    for index in range(RECENT_CALLS):
        hedging.observe("mean", 1000, 5.0 if index % 20 == 0 else 0.4 if index % 20 == 1 else 0.1)
        hedging.observe("mean", 1, 0.0001)
    assert hedging.delay_s("mean", 1000) == pytest.approx(0.4)  # 95 % took at most that
    assert hedging.delay_s("mean", 1) == 0.01


def test_few_calls_say_nothing() -> None:
    hedging = Hedging(0.05)
    for _ in range(NEEDED_CALLS - 1):
        hedging.observe("mean", 1000, 0.1)
    assert hedging.delay_s("mean", 1000) is None
    hedging.observe("mean", 1000, 0.1)
    assert hedging.delay_s("mean", 1000) == pytest.approx(0.2)


@given(st.lists(st.booleans(), max_size=2000), st.floats(0.0, 1.0))
def test_copies_never_exceed_the_budget(takes: list[bool], budget: float) -> None:
    hedging = Hedging(budget)
    calls = copies = 0
    for take in takes:
        if take:
            copies += hedging.take()
        else:
            calls += 1
            hedging.observe("mean", 1, 0.1)
        assert copies <= budget * calls + 1e-6
    before = copies
    while hedging.take():
        copies += 1
    assert copies - before <= BURST_COPIES


def test_twenty_calls_earn_one_copy() -> None:
    hedging = Hedging(0.05)
    for _ in range(20):
        assert not hedging.take()
        hedging.observe("mean", 1, 0.1)
    assert hedging.take()
    assert not hedging.take()


class Replicas:
    """Two replicas, of which the first can be held up."""

    def __init__(self, servers: list[BackgroundServer], scorers: list[MeanScorer]) -> None:
        self.targets = [server.target for server in servers]
        self.servers = servers
        self.scorers = scorers
        self.holding = threading.Event()
        self.is_held = threading.Event()
        score = scorers[0].score

        def held(batch: object) -> object:
            if self.holding.is_set():
                self.is_held.set()
                scorers[0].gate.wait(30)
            return score(batch)  # type: ignore[arg-type]

        scorers[0].score = held  # type: ignore[method-assign, assignment]

    def cancelled(self, index: int) -> float:
        labels = {"scorer": "mean", "code": "CANCELLED", "reason": ""}
        registry = self.servers[index].service.metrics.registry
        return registry.get_sample_value("assay_calls_total", labels) or 0.0

    def warm(self, client: RewardClient, calls: int = 60) -> None:
        for _ in range(calls):
            client.score([grey(5)], scorer="mean", **plain(1))


@contextmanager
def two_replicas(fingerprints: tuple[str, str] = ("f1", "f1")) -> Iterator[Replicas]:
    scorers = [MeanScorer(fingerprint=fingerprint) for fingerprint in fingerprints]
    with ExitStack() as stack:
        servers = [stack.enter_context(serve_in_background([scorer])) for scorer in scorers]
        replicas = Replicas(servers, scorers)
        try:
            yield replicas
        finally:
            for scorer in scorers:
                scorer.gate.set()


def allow_a_copy(client: RewardClient) -> None:
    """Now, and one: what a test does first has happened by then, however slow the machine."""
    client._connection._caller._hedging._tokens = 1.0


def test_a_held_up_call_is_answered_by_its_copy_and_cancelled() -> None:
    with two_replicas() as replicas, RewardClient(replicas.targets, deadline_s=60) as client:
        replicas.warm(client)
        before = client.statistics.hedges_won
        replicas.holding.set()
        for _ in range(60):  # half of them go to the replica that is held up
            [outcome] = client.score([grey(9)], scorer="mean", **plain(1))
            assert isinstance(outcome, Scored)
            assert outcome.value == 9 / 255
            if client.statistics.hedges_won > before:
                break
        counted = client.statistics
        assert counted.hedges_won > before
        assert counted.hedged <= 0.05 * counted.calls
        wait_for(lambda: replicas.cancelled(0) + replicas.cancelled(1) >= counted.hedges_won)
        held, free = (counted.replicas[target] for target in replicas.targets)
        assert held.calls + free.calls == counted.calls + counted.hedged + 1  # and ListScorers


def test_without_a_budget_nothing_is_sent_twice() -> None:
    with two_replicas() as replicas, RewardClient(replicas.targets, batch_items=1, hedge_budget=0.0) as client:
        replicas.warm(client)
        replicas.holding.set()
        future = client.submit(greys(4), scorer="mean", **plain(4))  # two calls to each
        wait_for(replicas.is_held.is_set)
        time.sleep(0.3)
        assert not future.done()
        replicas.scorers[0].gate.set()
        future.result(10)
        assert (client.statistics.hedged, client.statistics.retried) == (0, 0)


def test_a_late_call_is_sent_again_whatever_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before its deadline, so that the copies have all the time that a busy machine may want."""
    monkeypatch.setattr(attempts, "LATE_SHARE", 0.01)
    with two_replicas() as replicas, RewardClient(replicas.targets, batch_items=1, hedge_budget=1e-9) as client:
        replicas.warm(client, 10)
        replicas.holding.set()
        outcomes = client.score(greys(4), scorer="mean", deadline_s=60.0, **plain(4))  # two calls to each
        assert all(isinstance(outcome, Scored) for outcome in outcomes)
        assert client.statistics.hedges_won == 2


def test_a_call_is_late_at_half_its_time() -> None:
    """The clock tells that it is not before; how long after is the machine's to say."""
    assert attempts.LATE_SHARE == 0.5
    with two_replicas() as replicas, RewardClient(replicas.targets, hedge_budget=1e-9) as client:
        client.list_scorers()
        started_s = time.monotonic()
        future = client.submit([grey(0)], scorer="mean", deadline_s=4.0, **plain(1, "wait"))
        wait_for(lambda: client.statistics.hedged == 1)
        assert time.monotonic() - started_s >= 2.0
        future.cancel()


def test_a_copy_is_work_of_its_replica_too() -> None:
    with two_replicas() as replicas, RewardClient(replicas.targets, hedge_budget=1e-9) as client:
        replicas.warm(client, 2 * NEEDED_CALLS)
        pool = client._connection._pool
        future = client.submit([grey(0)], scorer="mean", deadline_s=60.0, **plain(1, "wait"))
        wait_for(lambda: sorted(replica.outstanding_pixels for replica in pool.replicas) == [0, 256])
        allow_a_copy(client)
        wait_for(lambda: client.statistics.hedged == 1)
        assert [replica.outstanding_pixels for replica in pool.replicas] == [256, 256]
        for scorer in replicas.scorers:
            scorer.gate.set()
        future.result(10)
        assert [replica.outstanding_pixels for replica in pool.replicas] == [0, 0]


def test_a_single_replica_gets_no_copies() -> None:
    with serve_in_background([MeanScorer()]) as server, RewardClient([server.target]) as client:
        for _ in range(40):
            client.score([grey(0)], scorer="mean", **plain(1))
        client.score([grey(0)], scorer="mean", **plain(1, "sleep 0.5"))
        assert client.statistics.hedged == 0


@pytest.mark.parametrize("pinned", ["f1", None])
@pytest.mark.parametrize("again", ["copy", "retry"])
def test_who_answers_again_under_another_fingerprint_is_refused(again: str, pinned: str | None) -> None:
    """A call is held up at one replica, or lost there, while the other one is redeployed with other weights."""
    budget = 1e-9 if again == "copy" else 0.0  # no copy until it is allowed
    with two_replicas() as replicas, RewardClient(replicas.targets, batch_items=1, hedge_budget=budget) as client:
        replicas.warm(client, 2 * NEEDED_CALLS)
        warmed = [len(scorer.scored_ids) for scorer in replicas.scorers]
        replicas.holding.set()
        future = client.submit(greys(2), scorer="mean", deadline_s=60.0, expected_fingerprint=pinned, **plain(2))
        wait_for(lambda: len(replicas.scorers[1].scored_ids) == warmed[1] + 1 and replicas.is_held.is_set())
        replicas.servers[1].service._hosts["mean"].info = MeanScorer(fingerprint="f2").info
        if again == "retry":
            replicas.servers[0].stop()
        else:
            allow_a_copy(client)
        with pytest.raises(FingerprintMismatchError, match="f2"):
            future.result(10)
        counted = client.statistics
        assert (counted.hedged, counted.retried) == ((1, 0) if again == "copy" else (0, 1))
