"""One bad sample fails alone, out of memory halves, and no number is made up."""

import logging

import numpy as np
import pytest
from assay_doubles import MeanScorer, grey

from assay.outcomes import Failed, Outcome, Scored
from assay.serving.execution import score_isolated
from assay.serving.scorer import Sample


def samples(prompts: list[str]) -> list[Sample]:
    return [Sample(str(index), (grey(index),), prompt, None) for index, prompt in enumerate(prompts)]


def run(scorer: MeanScorer, prompts: list[str]) -> tuple[list[Outcome], list[int]]:
    out_of_memory: list[int] = []
    return score_isolated(scorer, samples(prompts), out_of_memory.append), out_of_memory


@pytest.mark.parametrize("poisoned", [{0}, {15}, {3, 4}, {0, 7, 15}])
def test_poison_fails_alone(poisoned: set[int], caplog: pytest.LogCaptureFixture) -> None:
    prompts = ["poison" if index in poisoned else "" for index in range(16)]
    outcomes, _ = run(MeanScorer(), prompts)
    for index, outcome in enumerate(outcomes):
        if index in poisoned:
            assert isinstance(outcome, Failed)
            assert (outcome.code, outcome.reason) == ("INTERNAL", "SCORER_RAISED")
            error_id = outcome.message.rsplit(" ", 1)[1]
            assert "secret" not in outcome.message
            assert error_id in caplog.text
        else:
            assert isinstance(outcome, Scored)
            assert outcome.value == pytest.approx(index / 255)
    assert "secret path /models/private.bin" in caplog.text


def test_bisection_is_logarithmic() -> None:
    scorer = MeanScorer()
    run(scorer, ["poison"] + [""] * 63)
    assert len(scorer.batches) == 13  # the whole batch, then two halves on each of six levels


def test_a_scorer_that_exits_does_not_take_the_server_along() -> None:
    outcomes, _ = run(MeanScorer(), ["", "exit"])
    assert isinstance(outcomes[0], Scored)
    assert isinstance(outcomes[1], Failed)


def test_out_of_memory_is_halved_until_it_fits() -> None:
    scorer = MeanScorer(fits_items=3)
    outcomes, out_of_memory = run(scorer, [""] * 12)
    assert [round(outcome.value * 255) for outcome in outcomes if isinstance(outcome, Scored)] == list(range(12))
    assert out_of_memory == [12 * 256, 6 * 256, 6 * 256]


def test_a_single_image_that_does_not_fit_fails() -> None:
    outcomes, _ = run(MeanScorer(fits_items=0), ["", ""])
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, Failed)] == ["OUT_OF_MEMORY"] * 2


def test_torch_out_of_memory_is_known_by_name() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    class Scorer(MeanScorer):
        def score(self, batch: list[Sample]) -> list[Outcome]:
            if len(batch) > 1:
                raise OutOfMemoryError
            return super().score(batch)

    _, out_of_memory = run(Scorer(), ["", ""])
    assert out_of_memory == [512]


def test_nan_is_a_failure_and_not_a_score() -> None:
    outcomes, _ = run(MeanScorer(), ["nan", ""])
    assert isinstance(outcomes[0], Failed)
    assert outcomes[0].reason == "SCORE_NOT_FINITE"
    assert isinstance(outcomes[1], Scored)


@pytest.mark.parametrize("returned", [[], [Scored(0.0)] * 3, [0.5, 0.5]])
def test_a_scorer_that_breaks_its_protocol_gives_failures(returned: list[object]) -> None:
    class Scorer(MeanScorer):
        def score(self, batch: list[Sample]) -> list[Outcome]:
            return returned  # type: ignore[return-value]

    outcomes, _ = run(Scorer(), ["", ""])
    assert all(isinstance(outcome, Failed) for outcome in outcomes)


def test_the_failed_batch_is_freed_before_its_halves_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    class Scorer(MeanScorer):
        def score(self, batch: list[Sample]) -> list[Outcome]:
            import sys

            assert sys.exc_info()[0] is None
            return super().score(batch)

    outcomes, _ = run(Scorer(fits_items=1), ["", ""])
    assert all(isinstance(outcome, Scored) for outcome in outcomes)
    assert np.isfinite([outcome.value for outcome in outcomes if isinstance(outcome, Scored)]).all()
