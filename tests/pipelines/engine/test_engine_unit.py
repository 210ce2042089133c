"""A unit's hash, seeds and name: what else decides whether work is found again."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from engine_doubles import make_unit
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.unit import Unit

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
inputs = st.dictionaries(st.text(max_size=5), json_values, max_size=5)
keys = st.tuples(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))


def unit_of(key: tuple[str, str, str], **fields: Any) -> Unit:
    return Unit(*key, **{"folder": "f", "inputs": {}, **fields})


def reversed_everywhere(value: Any) -> Any:
    """Equal, with the entries of every dictionary in the opposite order."""
    if isinstance(value, dict):
        return {key: reversed_everywhere(value[key]) for key in reversed(value)}
    return [reversed_everywhere(one) for one in value] if isinstance(value, list) else value


@given(inputs)
def test_the_order_in_which_inputs_are_written_does_not_redo_a_unit(values: dict[str, Any]) -> None:
    assert unit_of(("a", "b", "c"), inputs=values).input_hash == (
        unit_of(("a", "b", "c"), inputs=reversed_everywhere(values)).input_hash
    )


@given(inputs, inputs)
def test_where_files_lie_does_not_redo_a_unit(values: dict[str, Any], locations: dict[str, Any]) -> None:
    unit = unit_of(("a", "b", "c"), inputs=values)
    assert replace(unit, locations=locations).input_hash == unit.input_hash


@given(inputs, st.text(max_size=5), json_values, json_values)
def test_an_input_that_changes_is_not_missed(values: dict[str, Any], name: str, one: Any, other: Any) -> None:
    first, second = ({**values, name: value} for value in (one, other))
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    hashes = [unit_of(("a", "b", "c"), inputs=chosen).input_hash for chosen in (first, second)]
    assert (hashes[0] == hashes[1]) == same


def test_what_is_needed_first_is_part_of_the_hash() -> None:
    def third(deep_inputs: dict[str, Any]) -> str:
        first = make_unit("a", "first", inputs=deep_inputs)
        return make_unit("a", "third", needs=[make_unit("a", "second", needs=[first])]).input_hash

    assert third({"steps": 1}) == third({"steps": 1})
    assert third({"steps": 1}) != third({"steps": 2})
    assert third({"steps": 1}) != make_unit("a", "third").input_hash


@given(keys, keys)
def test_no_two_identities_share_name_hash_or_seed(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    units = unit_of(one), unit_of(other)
    same = one == other
    assert (units[0].name == units[1].name) == same
    assert (units[0].input_hash == units[1].input_hash) == same
    assert (units[0].seed() == units[1].seed()) == same


@given(keys)
def test_a_name_is_a_file_name_whatever_the_item(key: tuple[str, str, str]) -> None:
    name = unit_of(key).name
    assert re.fullmatch(r"[A-Za-z0-9-]{17,57}", name)
    assert re.search(r"-[0-9a-f]{16}$", name)


@pytest.mark.parametrize("item", ["a/b", "..", "", ".", "日本語", "a" * 10_000, "a\nb", "\0", "*?[x]", "-rf", "NUL"])
def test_odd_items_have_names_of_their_own(item: str) -> None:
    name = make_unit(item).name
    assert re.fullmatch(r"[A-Za-z0-9-]{17,57}", name)
    assert name != make_unit(item + "x").name


def test_items_that_read_alike_do_not_share_a_name() -> None:
    assert make_unit("a/b").name != make_unit("a-b").name


@given(keys, st.lists(st.integers() | st.text(max_size=5), max_size=3))
def test_a_seed_suits_a_torch_generator(key: tuple[str, str, str], parts: list[int | str]) -> None:
    assert 0 <= unit_of(key).seed(*parts) < 2**63


def test_seeds_and_hashes_are_those_of_earlier_runs() -> None:
    """Whoever changes these numbers makes every finished batch be done again, with other pictures."""
    unit = Unit("sample-7", "mmsi/model", "generate", "mmsi/model/7", {"steps": 4, "prompt": "a cat"})
    assert unit.seed() == 1336149523691130176
    assert unit.seed("image", 2) == 2440552980631324749
    assert unit.input_hash == "8f83c2beab20c8bf5ed6388a404387ba334bc5c3704e437e6be98cfecb0dca5e"
    assert unit.name == "generate-sample-7-2515e9d33cd59a81"


def test_seeds_follow_the_identity_and_nothing_else() -> None:
    unit = make_unit("a")
    assert unit.seed() == make_unit("a", inputs={"size": 9}, work_s=1).seed()
    assert len({unit.seed(), unit.seed(0), unit.seed(1), unit.seed("1"), make_unit("a", "other").seed()}) == 5


def test_a_planned_unit_finds_what_its_unit_has_done() -> None:
    unit = make_unit("a/b", inputs={"steps": 3})
    planned = unit.planned()
    assert (planned.item, planned.variant, planned.stage) == unit.key
    assert (planned.folder, planned.name, planned.input_hash) == (unit.folder, unit.name, unit.input_hash)
