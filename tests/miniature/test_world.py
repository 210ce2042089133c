"""The small world's ground truth is exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniature.glyphs import CLASSES, COLORS, glyph
from miniature.prompts import (
    COUNT_SHARES,
    TAG_SHARES,
    counting_metadata,
    sample_captioned_scene,
    sample_metadata,
    scene_for,
    vocabulary,
)
from miniature.tokenizer import MAX_LENGTH, build_tokenizer
from miniature.world import GAP, IMAGE_SIDE, sample_scene


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), number=st.integers(0, 10))
def test_objects_stand_apart_and_inside(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    labels = [(str(rng.choice(CLASSES)), str(rng.choice(list(COLORS)))) for _ in range(number)]
    scene = sample_scene(labels, rng)
    assert [(item.class_name, item.color) for item in scene.objects] == labels
    taken = np.zeros((IMAGE_SIDE + 2 * GAP,) * 2, dtype=int)
    for item in scene.objects:
        x1, y1, x2, y2 = item.box
        assert 0 <= x1 < x2 <= IMAGE_SIDE
        assert 0 <= y1 < y2 <= IMAGE_SIDE
        taken[y1 : y2 + GAP, x1 : x2 + GAP] += 1
    assert taken.max(initial=0) <= 1  # boxes grown by the gap do not overlap


def test_masks_and_boxes_say_where_the_paint_is() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        scene = sample_scene([("apple", "red"), ("donut", "blue"), ("cup", "white")], rng)
        empty = type(scene)((), scene.background).render().astype(int)
        painted = np.abs(scene.render().astype(int) - empty).max(2) > 0
        covered = np.zeros((IMAGE_SIDE, IMAGE_SIDE), dtype=bool)
        for item in scene.objects:
            rows, columns = np.nonzero(item.mask)
            assert item.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            inside = scene.render()[item.mask].astype(int)
            nearest = np.abs(np.array(list(COLORS.values()))[:, None] - np.median(inside, axis=0)).sum(-1).min(1)
            assert list(COLORS)[int(nearest.argmin())] == item.color
            covered |= item.mask
        assert not (covered & ~painted).any()  # a mask lies on paint
        # paint outside of all masks is only the soft edge: pixels next to a mask
        grown = np.zeros_like(covered)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                grown |= np.roll(covered, (dy, dx), (0, 1))
        assert not (painted & ~grown).any()


def test_glyphs_differ_in_silhouette() -> None:
    masks = [glyph(name, 14).mask for name in CLASSES]
    for i, first in enumerate(masks):
        for second in masks[i + 1 :]:
            assert (first & second).sum() / (first | second).sum() < 0.85


def test_same_seed_same_picture() -> None:
    first, second = (sample_captioned_scene(np.random.default_rng(5)) for _ in range(2))
    assert first.metadata == second.metadata
    assert np.array_equal(first.scene.render(), second.scene.render())


@pytest.mark.parametrize(
    ("relation", "axis", "sign"), [("left of", 0, -1), ("right of", 0, 1), ("above", 1, -1), ("below", 1, 1)]
)
def test_position_scenes_stand_as_told(relation: str, axis: int, sign: int) -> None:
    metadata = {
        "tag": "position",
        "include": [{"class": "cup", "count": 1}, {"class": "kite", "count": 1, "position": [relation, 0]}],
        "prompt": f"a photo of a kite {relation} a cup",
    }
    for seed in range(20):
        cup, kite = scene_for(metadata, np.random.default_rng(seed)).objects
        difference = (kite.box[axis] + kite.box[axis + 2] - cup.box[axis] - cup.box[axis + 2]) / 2
        assert sign * difference >= 16


def test_counting_task_is_genevals() -> None:
    assert counting_metadata("cup", 3) == {
        "tag": "counting",
        "include": [{"class": "cup", "count": 3}],
        "exclude": [{"class": "cup", "count": 4}],
        "prompt": "a photo of three cups",
    }
    assert counting_metadata("apple", 1)["prompt"] == "a photo of one apple"


def test_every_prompt_is_whole_words_and_fits() -> None:
    assert sum(TAG_SHARES.values()) == pytest.approx(1)
    assert sum(COUNT_SHARES) == pytest.approx(1)
    tokenizer = build_tokenizer()
    assert all(len(tokenizer.tokenize(word)) == 1 for word in vocabulary())
    rng = np.random.default_rng(0)
    for _ in range(300):
        prompt = sample_metadata(rng)["prompt"]
        tokens = tokenizer(prompt).input_ids
        assert len(tokens) == len(prompt.split()) + 2 <= MAX_LENGTH
        assert tokenizer.unk_token_id not in tokens[1:-1]
