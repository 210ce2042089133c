"""Estimates, bounds and drains, seen from close by."""

import asyncio
import random

import pytest
from assay_doubles import MeanScorer, grey

from assay.background_loop import background_loop
from assay.errors import ConfigError
from assay.outcomes import Failed
from assay.serving.admission import Admission, Load
from assay.serving.rejection import Rejection
from assay.serving.scorer import Limits, Sample
from assay.serving.service_time import ServiceTime
from assay.serving.warm_up import warm_up_sample
from assay.testing import serve_in_background


def test_the_fit_finds_fixed_and_marginal_cost() -> None:
    time = ServiceTime()
    chance = random.Random(0)
    for _ in range(50):
        items = chance.randint(1, 32)
        time.observe(items, 0.020 + 0.004 * items)
    assert time.estimate_s(10, 1) == pytest.approx(0.060)
    assert time.estimate_s(64, 2) == pytest.approx(0.296)


def test_what_is_not_known_is_taken_to_be_fast() -> None:
    time = ServiceTime()
    assert time.estimate_s(100, 10) == 0.0
    time.observe(1, 0.1)
    time.observe(1, 0.1)
    assert time.estimate_s(64, 1) == pytest.approx(0.1)


def test_costs_are_never_negative() -> None:
    time = ServiceTime()
    for items, seconds in [(1, 0.5), (2, 0.4), (16, 0.1)]:
        time.observe(items, seconds)
    assert time.estimate_s(1000, 1) > 0
    time = ServiceTime()
    for items, seconds in [(1, 0.0), (16, 2.0), (17, 4.0)]:
        time.observe(items, seconds)
    assert time.estimate_s(0, 1) >= 0


def one_second() -> float:
    return 1.0


def test_admission_counts_back_to_zero() -> None:
    admission = Admission(Load(10, 100, 1000))
    tickets = [admission.admit(Load(items=2, image_bytes=100), one_second) for _ in range(5)]
    with pytest.raises(Rejection, match="10 of 10 items, 1 more"):
        admission.admit(Load(items=1), one_second)
    tickets[0].add_pixels(100, one_second)
    with pytest.raises(Rejection, match="100 of 100 pixels, 1 more"):
        tickets[1].add_pixels(1, one_second)
    for ticket in tickets:
        ticket.release()
        ticket.release()
    assert admission.current == Load()


def test_a_call_larger_than_the_bound_is_taken_when_alone() -> None:
    admission = Admission(Load(10, 100, 1000))
    ticket = admission.admit(Load(items=1, image_bytes=5000), one_second)
    with pytest.raises(Rejection):
        admission.admit(Load(items=1, image_bytes=1), one_second)
    ticket.release()


def test_warm_up_fits_the_limits_and_uses_the_scorers_own_sample() -> None:
    assert warm_up_sample(MeanScorer()).images[0].shape == (64, 64, 3)
    assert warm_up_sample(MeanScorer(limits=Limits(min_image_side=128))).images[0].shape == (128, 128, 3)

    class Own(MeanScorer):
        def warm_up_sample(self) -> Sample:
            return Sample("own", (grey(1),), "", None)

    assert warm_up_sample(Own()).id == "own"


def test_a_scorer_that_raises_at_warm_up_does_not_start() -> None:
    class Broken(MeanScorer):
        def score(self, batch: object) -> list[Failed]:
            raise RuntimeError("no weights")

    with pytest.raises(RuntimeError, match="no weights"), serve_in_background([Broken()]):
        pass


def test_nothing_and_twins_are_not_served() -> None:
    with pytest.raises(ConfigError, match="no scorer"), serve_in_background([]):
        pass
    with pytest.raises(ConfigError, match="two scorers are named 'mean'"), serve_in_background([MeanScorer()] * 2):
        pass


def test_failed_starts_leave_no_tasks_behind() -> None:
    with (
        serve_in_background([MeanScorer()]) as server,
        pytest.raises(ConfigError, match="cannot listen"),
        serve_in_background([MeanScorer()], grpc_port=int(server.target.rsplit(":", 1)[1])),
    ):
        pass

    async def batching() -> list[str]:
        return [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]

    names = asyncio.run_coroutine_threadsafe(batching(), background_loop()).result()
    assert "Batcher.run" not in names
