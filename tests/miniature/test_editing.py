"""Edit samples say exactly what should come of an instruction."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from assay.outcomes import Detection
from assay.tasks import GenEvalTask
from miniature.editing import (
    OPERATION_SHARES,
    PLACES,
    WORDINGS,
    Edit,
    is_free,
    sample_edit,
    sample_source,
    vocabulary,
)
from miniature.glyphs import CLASSES
from miniature.planned_edits import write_planned_edits
from miniature.tokenizer import INSTRUCTION_MAX_LENGTH, build_instruction_tokenizer
from miniature.world import GAP, IMAGE_SIDE, MARGIN, Scene
from services.geneval.rules import RuleSettings, judge, keep
from services.geneval.task_check import check_task

SEEDS = st.integers(0, 2**32)


@settings(max_examples=150)
@given(seed=SEEDS)
def test_the_result_obeys_the_instruction(seed: int) -> None:
    edit = sample_edit(np.random.default_rng(seed))
    before, after = list(edit.source.objects), list(edit.result.objects)
    gone = [item for item in before if item not in after]
    come = [item for item in after if item not in before]
    words = edit.instruction.split()
    assert (len(gone), len(come)) == {"add": (0, 1), "remove": (1, 0), "recolor": (1, 1), "move": (1, 1)}[
        edit.operation
    ]
    assert all(item.class_name in words for item in (*gone, *come))
    place = next(
        (name for name in sorted(PLACES, key=len, reverse=True) if edit.instruction.endswith(f" {name}")), None
    )
    if edit.operation == "add":
        assert come[0].color in words
        assert ("another" in words) == any(item.class_name == come[0].class_name for item in before)
        assert (edit.edited is None) == (place is None)
    if edit.operation in ("add", "move") and place:
        assert edit.edited == come[0]
        assert (come[0].left, come[0].top) == PLACES[place]
    if edit.operation == "recolor":
        assert words[-1] == come[0].color != gone[0].color
        assert (come[0].left, come[0].top, come[0].class_name) == (gone[0].left, gone[0].top, gone[0].class_name)
    if edit.operation == "move":
        assert (come[0].class_name, come[0].rgb) == (gone[0].class_name, gone[0].rgb)
        assert is_free((gone[0].left, gone[0].top), (come[0],))  # it moves clear of where it was


@settings(max_examples=100)
@given(seed=SEEDS)
def test_what_is_not_named_stays_to_the_pixel(seed: int) -> None:
    edit = sample_edit(np.random.default_rng(seed))
    touched = np.zeros((IMAGE_SIDE, IMAGE_SIDE), dtype=bool)
    for item in {*edit.source.objects} ^ {*edit.result.objects}:
        touched[item.top : item.top + item.side, item.left : item.left + item.side] = True
    differs = (edit.source.render() != edit.result.render()).any(2)
    assert differs.any()
    assert not (differs & ~touched).any()
    assert len(edit.kept) == len(edit.source.objects) - (edit.operation != "add")


@settings(max_examples=100)
@given(seed=SEEDS)
def test_objects_stand_apart_before_and_after(seed: int) -> None:
    edit = sample_edit(np.random.default_rng(seed))
    for scene in (edit.source, edit.result):
        for index, item in enumerate(scene.objects):
            assert MARGIN <= item.left <= IMAGE_SIDE - item.side - MARGIN
            assert is_free((item.left, item.top), scene.objects[:index])
            for other in scene.objects[:index]:
                gaps = [max(a - b, b - a) - item.side for a, b in ((item.left, other.left), (item.top, other.top))]
                assert max(gaps) >= GAP


@settings(max_examples=100)
@given(seed=SEEDS)
def test_the_named_object_is_the_only_one_of_its_class(seed: int) -> None:
    edit = sample_edit(np.random.default_rng(seed))
    if edit.operation != "add":
        gone = next(item for item in edit.source.objects if item not in edit.result.objects)
        assert [item.class_name for item in edit.source.objects].count(gone.class_name) == 1


@settings(max_examples=150)
@given(seed=SEEDS)
def test_the_task_accepts_the_result_and_nothing_with_other_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edit = sample_edit(rng)
    assert _accepted(edit, edit.result)
    if edit.operation != "move":  # a task of counts and colours cannot tell where objects stand
        assert not _accepted(edit, edit.source)
    objects = edit.result.objects
    dropped = int(rng.integers(len(objects)))
    assert not _accepted(edit, Scene((*objects[:dropped], *objects[dropped + 1 :]), edit.result.background))
    extra = sample_source(rng).objects[0]
    assert not _accepted(edit, Scene((*objects, extra), edit.result.background))


def test_all_operations_wordings_and_places_come_up() -> None:
    rng = np.random.default_rng(0)
    edits = [sample_edit(rng) for _ in range(1500)]
    assert {edit.operation for edit in edits} == set(OPERATION_SHARES) == set(WORDINGS)
    words = {word for edit in edits for word in edit.instruction.split()}
    assert words == set(vocabulary())
    moves = [edit.instruction for edit in edits if edit.operation == "move"]
    assert all(any(text.endswith(f"to the {place}") for text in moves) for place in PLACES)


def test_an_object_blocks_exactly_one_place() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        item = sample_source(rng).objects[0]
        assert sum(not is_free(corner, (item,)) for corner in PLACES.values()) == 1


def test_every_instruction_is_whole_words_and_fits() -> None:
    tokenizer = build_instruction_tokenizer()
    rng = np.random.default_rng(2)
    for _ in range(300):
        instruction = sample_edit(rng).instruction
        assert len(tokenizer(instruction).input_ids) == len(instruction.split()) <= INSTRUCTION_MAX_LENGTH - 2
    message = [{"role": "user", "content": "remove the red cup"}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert text == "<|im_start|>remove the red cup<|im_end|>"
    assert len(tokenizer(text).input_ids) == 6


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("edits")
    write_planned_edits(root, samples=60, seed=3, planning_model="planner")
    return root


def test_planned_edits_name_pictures_that_are_there(written: Path) -> None:
    records = _lines(written / "predicted_instructions/planner/results.jsonl")
    assert [record["id"] for record in records] == list(range(60))
    for record in records:
        assert record["dataset"] == "miniature"
        (path,) = record["image_paths"]
        assert path.startswith("dataset/")
        with Image.open(written / path.replace("dataset/", "datasets/", 1)) as image:
            assert (image.size, image.mode) == ((IMAGE_SIDE, IMAGE_SIDE), "RGB")
    assert {len(record["instructions"]) for record in records} == {0, 1, 2, 3}


def test_planned_edits_say_what_is_expected_of_each_picture(written: Path) -> None:
    records = _lines(written / "predicted_instructions/planner/results.jsonl")
    expected = _lines(written / "expected.jsonl")
    wanted = [(record["id"], k) for record in records for k in range(len(record["instructions"]))]
    assert [(line["id"], line["k"]) for line in expected] == wanted
    for line in expected:
        check_task(GenEvalTask.from_metadata(line["task"]), vocabulary=CLASSES)
        assert line["box"] is None or len(line["box"]) == 4
        assert (line["box"] is None) <= (line["operation"] in ("add", "remove"))


def test_planned_edits_are_the_same_again(written: Path, tmp_path: Path) -> None:
    write_planned_edits(tmp_path, samples=60, seed=3, planning_model="planner")
    files = [file.relative_to(written) for file in written.rglob("*") if file.is_file()]
    assert len(files) == 62
    assert all((tmp_path / file).read_bytes() == (written / file).read_bytes() for file in files)


def _accepted(edit: Edit, scene: Scene) -> bool:
    """What GenEval's rules say when every object of the scene is detected surely and its colour named right."""
    task = GenEvalTask.from_metadata(edit.task)
    check_task(task, vocabulary=CLASSES)
    settings_ = RuleSettings()
    found = [Detection(item.class_name, 1.0, item.box, item.color) for item in scene.objects]
    verdict = judge(task, keep(found, task.tag, settings_), settings_)
    assert verdict.correct == verdict.strict_correct  # the exclusions make the official rule as strict
    return verdict.strict_correct


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
