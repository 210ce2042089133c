"""Data files: what is read, what part of it, and that whatever is wrong with one is said with its place."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tiny_verifier import outcome, save_picture, save_rows

from assay.errors import ConfigError
from trainer.vlm.config import DataSource
from trainer.vlm.conversations import open_picture, read_conversations
from trainer.vlm.mixture import read_mixture


def row(**changes: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image> Red?"}, {"from": "gpt", "value": "yes"}]
    return {"id": "r1", "image": "00.png", "conversations": turns, **changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_picture(tmp_path, 0, red=True)
    save_picture(tmp_path, 1, red=False)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return tmp_path


def test_a_conversation_is_read_with_its_pictures_in_their_places(folder: Path) -> None:
    two = [{"from": "human", "value": "<image> left, <image> right. Red?"}, {"from": "gpt", "value": "left"}]
    two += [{"from": "human", "value": "Blue?"}, {"from": "gpt", "value": "right"}]
    path = save_rows(folder / "data.json", [row(image=["00.png", "01.png"], conversations=two)])
    (read,) = read_conversations(path)
    assert read.said == ("<image> left, <image> right. Red?", "left", "Blue?", "right")
    assert [image.name for image in read.images] == ["00.png", "01.png"]
    assert read.kinds == ("answer", "answer")
    assert [part["type"] for part in read.messages()[0]["content"]] == ["image", "text", "image", "text"]
    assert [message["role"] for message in read.messages(3)] == ["user", "assistant", "user"]
    lines = folder / "data.jsonl"
    lines.write_text(json.dumps(row()) + "\n\n" + json.dumps(row(id="r2")) + "\n")
    assert [one.id for one in read_conversations(lines)] == ["r1", "r2"]
    (folder / "elsewhere").mkdir()
    moved = save_rows(folder / "elsewhere/data.json", [row()])
    assert read_conversations(moved, images=folder)[0].images == (folder / "00.png",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conversations": None}, "conversations is missing, or empty"),
        ({"conversations": [{"from": "gpt", "value": "yes"}]}, r"conversations\[0\] is not by human"),
        ({"conversations": [{"from": "human", "value": "<image>?"}]}, "conversations ends with a question"),
        ({"conversations": [{"from": "human"}, {"from": "gpt"}]}, r"conversations\[0\].value = None; allowed: a text"),
        ({"image": None}, "image = None; allowed: a path"),
        ({"image": "nowhere.png"}, "image .*nowhere.png does not exist"),
        ({"image": "broken.png"}, "image .*broken.png cannot be read"),
        ({"image": ["00.png", "01.png"]}, "2 images, and <image> stands in its conversations 1 times"),
        ({"kinds": ["a", "b"]}, r"kinds = .* allowed: one for each of the 1 answers"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_entry(folder: Path, changes: dict[str, Any], said: str) -> None:
    path = save_rows(folder / "data.json", [row(), {**row(), "id": "bad", **changes}])
    with pytest.raises(ConfigError, match=rf"data.json, entry 1 \(id 'bad'\): {said}"):
        read_conversations(path)


def test_files_that_are_none_are_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.json cannot be read"):
        read_conversations(folder / "nowhere.json")
    with pytest.raises(ConfigError, match="holds a dict; allowed: a list"):
        read_conversations(save_rows(folder / "data.json", {}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no conversations"):
        read_conversations(save_rows(folder / "data.json", []))
    whole = (folder / "00.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])  # begins like a picture
    with pytest.raises(ConfigError, match=r"cut.png cannot be read"):
        open_picture(folder / "cut.png")


def test_parts_of_files_in_the_words_of_llava(folder: Path) -> None:
    rows = [outcome(str(number), "00.png", "yes") for number in range(10)]
    path = save_rows(folder / "data.json", rows)

    def ids(sampling: str, seed: int = 0) -> list[int]:
        return [int(one.id) for one in read_mixture([DataSource(path=path, sampling=sampling)], seed)]

    assert ids("all") == list(range(10))
    assert ids("first:3") == [0, 1, 2]
    assert ids("end:2") == [8, 9]
    assert ids("first:25%") == [0, 1, 2]  # rounded up
    half = ids("random:50%")
    assert len(set(half)) == 5
    assert half == sorted(half) == ids("random:50%")
    assert any(ids("random:50%", seed) != half for seed in (1, 2, 3))
    with pytest.raises(ConfigError, match=r"sampling = 'first:11' of .*data.json, which has 10: that is 11"):
        ids("first:11")
    with pytest.raises(ValidationError):
        DataSource(path=path, sampling="some")
    together = read_mixture([DataSource(path=path, sampling="first:1"), DataSource(path=path, sampling="end:1")], 0)
    assert [one.id for one in together] == ["0", "9"]
    save_rows(path, [*rows, outcome("10", "nowhere.png", "yes")])
    assert ids("first:10") == list(range(10))  # pictures of other entries are not asked for
    with pytest.raises(ConfigError, match=r"entry 10 \(id '10'\): image .*nowhere.png does not exist"):
        ids("end:1")
