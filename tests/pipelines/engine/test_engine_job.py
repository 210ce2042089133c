"""A job's settings choose its units and its device, and its logs and summaries say what came of them."""

from pathlib import Path
from typing import Any

import pytest
from engine_doubles import make_unit, stages

from assay.errors import ConfigError
from pipelines.engine.executors import InProcess
from pipelines.engine.job import Job, choose_units, make_executor, run_job
from pipelines.engine.ledger import Ledger
from pipelines.engine.settings import BatchSettings
from pipelines.engine.unit import Unit


def two_stages(items: str, variant: str = "plain") -> list[Unit]:
    draw = [make_unit(item, variant=variant) for item in items]
    return [*draw, *(make_unit(unit.item, "finish", variant=variant, needs=[unit]) for unit in draw)]


def chosen(units: list[Unit], **settings: Any) -> list[str]:
    return [f"{unit.variant}/{unit.item}/{unit.stage}" for unit in choose_units(units, BatchSettings(**settings))]


def test_an_index_is_an_items_position_within_its_variant() -> None:
    units = [*two_stages("xyz"), *two_stages("pq", "other")]
    assert chosen(units, indices="1 2") == [
        *("plain/y/draw", "plain/z/draw", "plain/y/finish", "plain/z/finish"),
        *("other/q/draw", "other/q/finish"),
    ]


def test_shards_keep_all_stages_of_an_item_together_and_leave_nothing_out() -> None:
    units = two_stages("abcdefghij")
    parts = [choose_units(units, BatchSettings(shard=f"{index}/3")) for index in range(3)]
    assert sorted(unit.name for part in parts for unit in part) == sorted(unit.name for unit in units)
    assert all(unit.needs[0] in part for part in parts for unit in part if unit.needs)


def test_shard_and_indices_hold_both() -> None:
    units = two_stages("abcdef")
    both = chosen(units, indices="0-3", shard="0/2")
    assert set(both) == set(chosen(units, indices="0-3")) & set(chosen(units, shard="0/2"))


def test_indices_beyond_the_items_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'7' is out of range; there are 3 items, 0 to 2"):
        chosen([*two_stages("xyz"), *two_stages("pq", "other")], indices="7")


@pytest.mark.parametrize("engine", ["auto", "in_process"])
def test_one_device_needs_no_ray(engine: str) -> None:
    assert isinstance(make_executor(stages(), BatchSettings(engine=engine), 0), InProcess)


def test_gpus_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ConfigError, match=r"num_gpus = 2; .*1 visible \(3\)"):
        make_executor(stages(), BatchSettings(num_gpus=2), 1)


def test_two_gpus_in_one_process_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ConfigError, match="num_gpus = 2 with engine = in_process, which uses one"):
        make_executor(stages(), BatchSettings(engine="in_process", num_gpus=2), 2)


def test_a_job_logs_by_variant_and_summarizes_also_after_failures(tmp_path: Path) -> None:
    summarized: list[Path] = []

    def summarize(ledger: Ledger) -> list[Path]:
        summarized.append(ledger.root)
        return []

    units = [make_unit("a"), make_unit("b", variant="other", fail="permanent")]
    job = Job("test", units, stages(), {"plain": "plain", "other": "other"}, summarize)
    report = run_job(job, BatchSettings(), tmp_path, 0)
    assert (report.done, report.failed) == (1, 1)
    assert report.sentence(tmp_path) == f"1 done, 1 failed; see `assay pipeline status {tmp_path}`"
    assert summarized == [tmp_path]
    logs = {folder: (tmp_path / folder / "run.log").read_text() for folder in (".", "plain", "other")}
    assert [name for name, said in logs.items() if "plain / a / draw: done" in said] == [".", "plain"]
    assert [name for name, said in logs.items() if "other / b / draw: failed" in said] == [".", "other"]
    assert all("test: 2 units planned, 2 in this run" in said for said in logs.values())


@pytest.mark.parametrize("settings", [{"ray_address": "host:1"}, {"workers": 2}])
def test_ray_settings_are_not_lost_on_one_process(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="goes with neither ray_address nor workers > 1"):
        make_executor(stages(), BatchSettings(engine="in_process", **settings), 0)


def test_the_first_items_are_chosen_of_each_variant() -> None:
    units = [*two_stages("xyz"), *two_stages("pq", "other")]
    assert {unit.item for unit in choose_units(units, BatchSettings(), 1)} == {"x", "p"}
