"""`assay data counting`: the sizes of the published splits, exact tasks, and nothing of the test set in training."""

import json
from pathlib import Path

import pytest

from assay.coco import COCO_CLASSES, plural, singular
from assay.errors import ConfigError
from assay.tasks import GenEvalTask
from services.geneval.task_check import check_task
from trainer.counting_data import ONE, SEVERAL, build, counting, number_word
from trainer.prompts import read_prompts


@pytest.mark.parametrize(("largest", "train", "test"), [(5, 3750, 250), (10, 7500, 500), (20, 15000, 1000)])
def test_sizes_are_those_of_the_published_data(largest: int, train: int, test: int) -> None:
    data = build(COCO_CLASSES, largest)
    assert (len(data.train), len(data.test)) == (train, test)
    counts = [row["include"][0]["count"] for row in data.test]
    assert {counts.count(count) for count in range(1, largest + 1)} == {50}


def test_no_prompt_is_in_both_files_or_twice() -> None:
    data = build(COCO_CLASSES, 40)
    prompts = [row["prompt"] for row in data.train + data.test]
    assert len(prompts) == len(set(prompts)) == 80 * 40 * 10


def test_tasks_are_exact_and_can_be_judged() -> None:
    for row in build(COCO_CLASSES, 10).test:
        task = GenEvalTask.from_metadata(row)
        check_task(task, vocabulary=COCO_CLASSES, max_objects=50)
        (include,), (exclude,) = task.include, task.exclude
        assert (
            (include.class_name, include.count + 1)
            == (exclude.class_name, exclude.count)
            == (row["class"], exclude.count)
        )
        words = row["prompt"]
        assert number_word(include.count) in words.split()
        assert (singular if include.count == 1 else plural)(include.class_name) in words


def test_wordings_differ() -> None:
    assert len(set(ONE)) == len(set(SEVERAL)) == 10


@pytest.mark.parametrize(
    ("number", "word"), [(0, "zero"), (1, "one"), (13, "thirteen"), (20, "twenty"), (21, "twenty-one"), (40, "forty")]
)
def test_number_words(number: int, word: str) -> None:
    assert number_word(number) == word


def test_class_names_are_those_of_the_detector_vocabulary() -> None:
    assert len(set(COCO_CLASSES)) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[16], COCO_CLASSES[64], COCO_CLASSES[79]) == (
        "person",
        "dog",
        "computer mouse",
        "toothbrush",
    )
    assert [plural(name) for name in ("bus", "knife", "toothbrush", "sheep")] == [
        "buses",
        "knives",
        "toothbrushes",
        "sheep",
    ]


def test_files_are_read_by_the_trainer_and_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "other"):
        assert counting(tmp_path / name, 5, "apple, computer mouse", 3) == 0
    assert (tmp_path / "one/train.jsonl").read_bytes() == (tmp_path / "other/train.jsonl").read_bytes()
    assert len(read_prompts(tmp_path / "one/train.jsonl")) + len(read_prompts(tmp_path / "one/test.jsonl")) == 100
    classes = {json.loads(line)["class"] for line in (tmp_path / "one/train.jsonl").open()}
    assert classes == {"apple", "computer mouse"}
    counting(tmp_path / "third", 5, "apple, computer mouse", 4)
    assert (tmp_path / "third/test.jsonl").read_bytes() != (tmp_path / "one/test.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("largest", "classes", "says"), [(7, "coco80", "range = 7; allowed: 5, 10, 20, 40"), (5, " ,", "classes")]
)
def test_bad_arguments_are_refused(tmp_path: Path, largest: int, classes: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        counting(tmp_path, largest, classes, 0)
