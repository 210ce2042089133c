"""Shards and indices choose each unit once; GPU entries go to processes as CUDA understands them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import ConfigError
from pipelines.engine.devices import choose_gpus, visible_gpus
from pipelines.engine.selection import Shard, parse_indices, parse_shard

MIG = "MIG-5c89b1a4-1d1f-5f0e-9d2b-3a1b6c1f0000"


@given(st.sets(st.text(max_size=12), max_size=40), st.integers(1, 9))
def test_shards_hold_every_item_exactly_once(items: set[str], count: int) -> None:
    holders = {item: [i for i in range(count) if Shard(i, count).holds(item)] for item in items}
    assert all(len(indices) == 1 for indices in holders.values())


def test_shards_are_those_of_earlier_runs_and_of_about_one_size() -> None:
    sizes = [sum(Shard(index, 4).holds(f"item-{number}") for number in range(4000)) for index in range(4)]
    assert sum(sizes) == 4000
    assert min(sizes) > 900
    assert [next(i for i in range(4) if Shard(i, 4).holds(item)) for item in "abcdef"] == [0, 0, 2, 0, 3, 0]


@pytest.mark.parametrize(("text", "shard"), [("0/1", Shard(0, 1)), (" 3/4 ", Shard(3, 4)), ("07/10", Shard(7, 10))])
def test_shards_that_make_sense(text: str, shard: Shard) -> None:
    assert parse_shard(text) == shard


@pytest.mark.parametrize("text", ["4/4", "1", "-1/4", "1/0", "0/0", "1/-4", "a/b", "", "1/2/3", "0.5/2", "1 / 2"])
def test_shards_that_make_none_are_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="shard") as refused:
        parse_shard(text)
    assert repr(text) in str(refused.value)
    assert "0 <= i < n" in str(refused.value)


@pytest.mark.parametrize(
    ("parts", "chosen"),
    [
        (["0"], {0}),
        (["0", "3", "10-12"], {0, 3, 10, 11, 12}),
        (["0,3,10:12"], {0, 3, 10, 11, 12}),
        (["0, 3  10-12 3"], {0, 3, 10, 11, 12}),
        (["5-5"], {5}),
        (["19"], {19}),
        ([""], set()),
        ([], set()),
    ],
)
def test_indices_that_make_sense(parts: list[str], chosen: set[int]) -> None:
    assert parse_indices(parts, 20) == chosen


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("x", "neither a whole number nor a range"),
        ("-3", "neither a whole number nor a range"),
        ("3-", "neither a whole number nor a range"),
        ("1.5", "neither a whole number nor a range"),
        ("1-2-3", "neither a whole number nor a range"),
        ("²", "neither a whole number nor a range"),
        ("7-3", "runs backwards"),
        ("20", "out of range; there are 20 items, 0 to 19"),
        ("3-20", "out of range"),
    ],
)
def test_indices_that_make_none_are_refused_by_name(part: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refused:
        parse_indices(["0", part], 20)
    assert repr(part) in str(refused.value)


@given(st.sets(st.integers(0, 99), min_size=1, max_size=30))
def test_indices_written_in_any_way_are_read_back(indices: set[int]) -> None:
    assert parse_indices([" ".join(map(str, indices))], 100) == indices
    assert parse_indices([",".join(f"{index}-{index}" for index in indices)], 100) == indices


@pytest.mark.parametrize(
    ("variable", "seen", "entries"),
    [
        (None, 3, ["0", "1", "2"]),
        (None, 0, []),
        ("", 0, []),
        ("0,2", 2, ["0", "2"]),
        ("2, 0", 2, ["2", "0"]),
        ("0,-1,1", 1, ["0"]),  # CUDA stops reading at the first entry that is no device
        ("GPU-8932f937,GPU-1dcbcb3a", 2, ["GPU-8932f937", "GPU-1dcbcb3a"]),
        (MIG, 1, [MIG]),
        ("NoDevFiles", 0, []),
    ],
)
def test_gpus_are_named_as_cuda_names_them(variable: str | None, seen: int, entries: list[str]) -> None:
    assert visible_gpus(variable, seen) == entries


def test_the_second_of_gpus_0_and_2_is_2() -> None:
    assert choose_gpus(visible_gpus("0,2", 2), -1) == ["0", "2"]
    assert choose_gpus(visible_gpus("2,0", 2), 1) == ["2"]
    assert choose_gpus(["0", "2"], 0) == []
    assert choose_gpus([], -1) == choose_gpus([], 2) == []  # then it is the CPU


@pytest.mark.parametrize(
    ("visible", "number", "says"),
    [
        (["0", "2"], 3, r"num_gpus = 3; .* up to 2: 2 visible \(0, 2\)"),
        ([MIG], 2, rf"num_gpus = 2; .*\({MIG}\)"),
        (["0"], -2, r"num_gpus = -2; allowed: -1 \(all\), 0 \(the CPU\)"),
    ],
)
def test_gpus_that_are_not_there_are_refused_by_number(visible: list[str], number: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        choose_gpus(visible, number)
