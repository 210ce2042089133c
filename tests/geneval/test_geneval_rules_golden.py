"""Assay's rules equal the reference's on every stored line."""

import json
from pathlib import Path

import pytest

from services.geneval.rules import RuleSettings
from services.geneval.stored import verdict_of_line

GOLDEN = Path(__file__).parent.parent / "golden" / "geneval_rules.jsonl"
LINES = GOLDEN.read_text().splitlines()


def test_the_golden_file_holds_all_six_tags() -> None:
    assert len(LINES) == 1200
    assert len({json.loads(line)["metadata"]["tag"] for line in LINES}) == 6


@pytest.mark.parametrize("compat", [False, True])
def test_official_and_strict_verdicts_equal_the_reference(compat: bool) -> None:
    for number, line in enumerate(LINES, start=1):
        golden, verdict = json.loads(line), verdict_of_line(line, RuleSettings(), compat=compat)
        assert verdict["correct"] is golden["correct"], f"line {number}"
        assert verdict["strict_correct"] is golden["strict_correct"], f"line {number}"


def test_compat_score_equals_the_reference() -> None:
    for number, line in enumerate(LINES, start=1):
        assert verdict_of_line(line, RuleSettings(), compat=True)["score"] == json.loads(line)["score"], (
            f"line {number}"
        )


def test_clean_score_differs_only_by_the_floor_and_the_position_defect() -> None:
    for number, line in enumerate(LINES, start=1):
        golden, clean = json.loads(line), verdict_of_line(line, RuleSettings())["score"]
        assert 0 <= clean <= 1, f"line {number}"
        assert (clean == 1) is golden["strict_correct"], f"line {number}"
        if golden["metadata"]["tag"] == "position" and golden["score"] == 0.75:
            assert clean == pytest.approx(2 / 3), f"line {number}"
