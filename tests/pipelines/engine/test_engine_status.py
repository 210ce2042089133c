"""Counts are those of the ledger, for all that was planned, whichever part of it runs did."""

import json
from pathlib import Path

import pytest
from engine_doubles import do, make_unit

from assay.errors import ConfigError
from pipelines.engine.ledger import Ledger
from pipelines.engine.status import StageStatus, open_ledger, read_plans, stage_statuses, table, write_plan
from pipelines.engine.unit import Unit


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "run")


def planned() -> list[Unit]:
    """Two variants; in "plain", three items through two stages, of which the second item fails at the first."""
    draw = [make_unit(item, fail="permanent" if item == "b" else "") for item in "abc"]
    return [
        *draw,
        *(make_unit(unit.item, "finish", needs=[unit]) for unit in draw),
        *(make_unit(item, variant="other") for item in "ab"),
    ]


def rows(ledger: Ledger) -> list[tuple[str, str, int, int, int, int]]:
    return [(s.variant, s.stage, s.units, s.done, s.failed, s.pending) for s in stage_statuses(ledger)]


def test_what_nobody_has_begun_is_pending(ledger: Ledger) -> None:
    write_plan(ledger, "job", planned())
    assert rows(ledger) == [
        ("other", "draw", 2, 0, 0, 2),
        ("plain", "draw", 3, 0, 0, 3),
        ("plain", "finish", 3, 0, 0, 3),
    ]


def test_done_failed_and_blocked_units_are_counted_by_stage(ledger: Ledger) -> None:
    units = planned()
    write_plan(ledger, "job", units)
    do(units[:6], ledger)
    assert rows(ledger) == [
        ("other", "draw", 2, 0, 0, 2),
        ("plain", "draw", 3, 2, 1, 0),
        ("plain", "finish", 3, 2, 0, 1),
    ]
    (failure,) = stage_statuses(ledger)[1].failures
    assert (failure.item, failure.error_class) == ("b", "UnitError")


def test_changed_and_damaged_units_are_pending(ledger: Ledger) -> None:
    units = [make_unit(item) for item in "abc"]
    do(units, ledger)
    (ledger.folder(units[0]) / "about.json").unlink()
    write_plan(ledger, "job", [*units[:2], make_unit("c", inputs={"steps": 9})])
    assert rows(ledger) == [("plain", "draw", 3, 1, 0, 2)]


def test_a_new_plan_takes_the_place_of_its_variants_and_of_no_other(ledger: Ledger) -> None:
    write_plan(ledger, "job", planned())
    write_plan(ledger, "newer", [make_unit("z", variant="other")])
    assert [(plan.job, plan.variant, len(plan.units)) for plan in read_plans(ledger)] == [
        ("newer", "other", 1),
        ("job", "plain", 6),
    ]


def test_a_plan_gives_units_back_in_their_order(ledger: Ledger) -> None:
    units = [make_unit(item, variant="a/../b é") for item in "cab"]
    write_plan(ledger, "job", units)
    (plan,) = read_plans(ledger)
    assert plan.units == [unit.planned() for unit in units]


def test_the_table_aligns_its_columns() -> None:
    statuses = [StageStatus("a-long-variant", "draw", 10, 0, 2, ()), StageStatus("b", "finish", 0, 1, 0, ())]
    assert [line.rstrip() for line in table(statuses).splitlines()] == [
        "variant         stage   units  done  failed  pending",
        "a-long-variant  draw    12     10    0       2",
        "b               finish  1      0     1       0",
    ]
    assert table([]).split() == ["variant", "stage", "units", "done", "failed", "pending"]


def test_a_folder_without_a_batch_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path} holds no batch"):
        open_ledger(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_batch_is_opened(ledger: Ledger) -> None:
    write_plan(ledger, "job", planned())
    assert open_ledger(ledger.root).root == ledger.root
    assert all(isinstance(json.loads(path.read_text()), dict) for path in ledger.plans.glob("*.json"))
