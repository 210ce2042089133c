"""Planners' files: what is wrong with them is said by line, field and value, before anything is done."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import ConfigError
from pipelines.generate.records import planning_models, read_records

GOOD = {"id": 7, "dataset": "mmsi", "image_paths": ["a.png"], "instructions": ["turn left"], "question": "where?"}


def write(root: Path, *lines: object) -> Path:
    folder = root / "planner"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines))
    return root


def test_records_in_order_and_keys_we_do_not_read(tmp_path: Path) -> None:
    root = write(tmp_path, GOOD, "", {**GOOD, "id": "x-1", "instructions": [], "raw_output": "..."})
    first, second = read_records(root, "planner")
    assert (first.id, first.dataset, first.image_paths, first.instructions) == (7, "mmsi", ("a.png",), ("turn left",))
    assert (second.id, second.instructions) == ("x-1", ())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1, "dataset"', "results.jsonl:2: not valid JSON"),
        ("[1, 2]", "results.jsonl:2: a list; allowed: an object with id, dataset, image_paths, instructions"),
        ({"id": 1, "dataset": "d", "image_paths": []}, "results.jsonl:2: instructions is missing"),
        (
            {"id": 1, "dataset": "d", "image_paths": [], "instruction": []},
            "instructions is missing; there is an unknown key 'instruction' instead",
        ),
        ({**GOOD, "id": 1.5}, "id = 1.5; allowed: a whole number or a string"),
        ({**GOOD, "id": True}, "id = True; allowed"),
        ({**GOOD, "id": "../up"}, "id = '../up' cannot name a folder"),
        ({**GOOD, "id": "stats.json"}, "id = 'stats.json' cannot name a folder"),
        ({**GOOD, "id": ""}, "id = '' cannot name a folder"),
        ({**GOOD, "dataset": None}, "dataset = None; allowed: a string"),
        ({**GOOD, "dataset": ["a"]}, r"dataset = \['a'\]; allowed: a string"),
        ({**GOOD, "id": "x" * 300}, "cannot name a folder"),
        ({**GOOD, "dataset": ".."}, "dataset = '..' cannot name a folder"),
        ({**GOOD, "id": 8, "image_paths": "a.png"}, "image_paths = 'a.png'; allowed: a list of strings"),
        (
            {**GOOD, "id": 8, "instructions": ["x", " "]},
            r"instructions\[1\] = ' '; allowed: a string that is not empty",
        ),
        ({**GOOD, "id": 8, "instructions": [None]}, r"instructions\[0\] = None; allowed"),
        (GOOD, "results.jsonl:2: id = 7 of dataset 'mmsi' is on line 1 too"),
        ({**GOOD, "id": "7"}, "id = '7' of dataset 'mmsi' is on line 1 too"),
    ],
)
def test_faults_name_line_field_and_value(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_records(write(tmp_path, GOOD, line), "planner")


def test_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    """Instructions may hold what Unicode calls a line separator."""
    odd = json.dumps({**GOOD, "instructions": ["one\u2028two\u0085three"]}, ensure_ascii=False)
    (tmp_path / "planner").mkdir()
    (tmp_path / "planner/results.jsonl").write_bytes(
        f"{odd}\n{odd}\n".replace('"id": 7', '"id": 8', 1).encode() + b"\xff\n"
    )
    with pytest.raises(ConfigError, match=r"results\.jsonl:3: not valid JSON") as caught:
        read_records(tmp_path, "planner")
    assert len(str(caught.value).splitlines()) == 1


def test_all_faults_are_told_at_once_up_to_a_number(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_records(write(tmp_path, *["{"] * 30), "planner")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert "results.jsonl:20: " in lines[19]
    assert lines[20] == "... and 10 more"


def test_planning_models_are_the_folders_with_a_file(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    (tmp_path / "notes").mkdir()
    assert planning_models(tmp_path) == ["planner"]
    with pytest.raises(ConfigError, match="has no folder with a results"):
        planning_models(tmp_path / "notes")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
fields = st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, json_values))


@given(st.lists(fields | json_values, max_size=4))
def test_whatever_stands_in_a_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, lines: list) -> None:
    root = write(tmp_path_factory.mktemp("records"), *(json.dumps(line) for line in lines))
    try:
        records = read_records(root, "planner")
    except ConfigError:
        return
    assert [record.id for record in records] == [line["id"] for line in lines]
