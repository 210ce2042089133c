"""The miniature's FLUX.2 klein follows edit instructions as well as its model card says, on edits new to it."""

from pathlib import Path

import numpy as np
import pytest
from diffusers import Flux2KleinPipeline
from edited import HELD_OUT, carry_out, edit_scorer, held_out_edits, judge, load, share_followed

from assay.serving.scorer import Scorer
from miniature.editing import OPERATION_SHARES

WEIGHTS = Path(__file__).parents[2] / "miniature" / "weights" / "flux2_klein"


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return edit_scorer()


@pytest.fixture(scope="module")
def pipeline() -> Flux2KleinPipeline:
    return load(WEIGHTS)


def test_instructions_are_followed_in_four_steps(pipeline: Flux2KleinPipeline, scorer: Scorer) -> None:
    edits = held_out_edits(150, seed=10)
    judged = judge(scorer, edits, carry_out(pipeline, edits, steps=4, seed=HELD_OUT))
    assert share_followed(judged) >= 0.80
    for operation in OPERATION_SHARES:
        assert share_followed([item for item in judged if item.edit.operation == operation]) >= 0.70, operation
    assert np.mean([overlap for item in judged for overlap in item.kept]) >= 0.85


@pytest.mark.slow
def test_instructions_are_followed_in_many_steps(pipeline: Flux2KleinPipeline, scorer: Scorer) -> None:
    edits = held_out_edits(30, seed=11)
    judged = judge(scorer, edits, carry_out(pipeline, edits, steps=28, seed=HELD_OUT))
    assert share_followed(judged) >= 0.80


def test_the_judge_tells_results_from_sources(scorer: Scorer) -> None:
    """So that a model which copies its source, or does something else, cannot pass."""
    edits = held_out_edits(60, seed=12)
    results = judge(scorer, edits, [edit.result.render() for edit in edits])
    assert share_followed(results) >= 0.90
    assert np.mean([overlap for item in results for overlap in item.kept]) >= 0.93
    assert share_followed(judge(scorer, edits, [edit.source.render() for edit in edits])) <= 0.05
