"""The small x3 data is exactly what it says: masks, views without the object, what is visible, who needs the mark."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from miniature.glyphs import glyph
from miniature.world import IMAGE_SIDE, Scene, WorldObject
from miniature.x3 import VIEWS, sample_uids, sample_views, split_of, write_x3
from miniature.x3_scenes import (
    DILATION_PIXELS,
    TWIN_SHARE,
    VISIBLE_PIXELS,
    Camera,
    WideScene,
    dilate,
    is_in_view,
    mask_in_view,
    sample_camera,
    sample_wide_scene,
)

SEEDS = st.integers(0, 2**32)


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("x3")
    write_x3(folder, 5, seed=3)
    return folder


def test_the_layout_is_that_of_the_task(root: Path) -> None:
    assert sorted(path.name for path in root.iterdir()) == ["train", "truth.jsonl", "validation"]
    assert [split_of(number) for number in range(5)] == ["train"] * 4 + ["validation"]
    assert [path.name for path in (root / "validation").iterdir()] == ["scene0004"]
    lines = [json.loads(line) for line in (root / "truth.jsonl").read_text().splitlines()]
    assert len(lines) == 5 * 4 * VIEWS
    for line in lines:
        stem = f"{line['view']:02d}_{line['frame']}"
        folder = root / line["split"] / line["scene"] / f"uid_{line['uid']}"
        original, inpainted, mask, dilated = (
            read(folder / f"{stem}_{ending}.png") for ending in ("original", "inpainted", "mask", "mask_dialated")
        )
        assert original.shape == inpainted.shape == (IMAGE_SIDE, IMAGE_SIDE, 3)
        assert mask.shape == (IMAGE_SIDE, IMAGE_SIDE)
        assert set(np.unique(mask)) <= {0, 255}
        # Where the object is missing both pictures are one; elsewhere they differ in the grown mask alone. (Next to the
        # border, soft edges may be left of an object whose mask begins beyond it.)
        assert line["visible"] == bool(mask.any())
        changed = (original != inpainted).any(-1)
        assert not changed[2:-2, 2:-2][dilated[2:-2, 2:-2] == 0].any()
        assert (dilated[mask > 0] == 255).all()
        assert changed[mask > 0].mean() > 0.95 if line["visible"] else not changed.any()
        if line["visible"]:
            rows, columns = np.nonzero(mask)
            assert line["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert all(line["visible"] for line in lines if line["view"] == 1)


def test_the_same_seed_writes_the_same_files_and_more_scenes_change_none(root: Path, tmp_path: Path) -> None:
    write_x3(tmp_path, 2, seed=3)
    for path in sorted(path for path in tmp_path.rglob("*.png")):
        assert path.read_bytes() == (root / path.relative_to(tmp_path)).read_bytes()
    write_x3(tmp_path / "other", 1, seed=4)
    names = {path.parent.name for path in (tmp_path / "other").rglob("*.png")}
    assert names != {path.parent.name for path in (tmp_path / "train/scene0000").rglob("*.png")}


def test_a_camera_at_the_worlds_own_scale_gives_the_worlds_own_picture() -> None:
    """Against `Scene.render`: two ways to the same pixels."""
    item = WorldObject("cup", "blue", 20, 30, 14, (45, 90, 220))
    grey = ((150, 150, 150), (150, 150, 150))
    scene = Scene((item,), grey)
    wide = WideScene((item,), grey)
    camera = Camera(0, 0, 1.0)
    assert np.array_equal(wide.render(camera), scene.render())
    assert np.array_equal(mask_in_view(camera.see(item)), item.mask)
    # Panned by (15, 5), the picture is the same but for what has come in.
    panned = wide.render(Camera(15, 5, 1.0))
    assert np.array_equal(panned[:59, :49], scene.render()[5:, 15:])


def test_zoom_and_border_by_hand() -> None:
    item = WorldObject("pizza", "green", 60, 40, 16, (45, 160, 70))
    assert Camera(50, 30, 1.25).see(item) == WorldObject("pizza", "green", 12, 12, 20, (45, 160, 70))
    cut = Camera(0, 40, 1.0).see(item)  # four columns are left of sixteen
    assert np.array_equal(mask_in_view(cut)[:16, 60:], glyph("pizza", 16).mask[:, :4])
    assert mask_in_view(cut).sum() == glyph("pizza", 16).mask[:, :4].sum()
    assert is_in_view(Camera(75, 40, 1.0).see(item))
    assert not is_in_view(Camera(76, 40, 1.0).see(item))
    assert not is_in_view(Camera(60, -24, 1.0).see(item))


@settings(max_examples=60)
@given(seed=SEEDS)
def test_objects_of_a_view_do_not_touch_and_are_seen_as_asked(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_wide_scene(rng)
    assert all(item.color != "red" for item in scene.objects)
    item = scene.objects[rng.integers(len(scene.objects))]
    camera = sample_camera(item, rng, sees=True)
    masks = [mask_in_view(camera.see(one)) for one in scene.objects]
    assert np.sum(masks, axis=0).max() == 1
    assert mask_in_view(camera.see(item)).sum() >= VISIBLE_PIXELS
    away = sample_camera(item, rng, sees=False)
    assert np.array_equal(scene.render(away), scene.without(item).render(away))
    whole = sample_camera(item, rng, sees=True, wholly=True)
    assert mask_in_view(whole.see(item)).sum() == glyph(item.class_name, whole.see(item).side).mask.sum()


def test_a_fifth_is_missing_and_some_need_the_mark() -> None:
    rng = np.random.default_rng(0)
    visible, unique = [], []
    for number in range(150):
        for _, views in sample_uids(1, number):
            visible += [bool(view.mask.any()) for view in views[1:]]
            unique.append(views[0].scene.is_unique(views[0].item))
    assert 0.17 < 1 - np.mean(visible) < 0.23
    assert 0 < 1 - np.mean(unique) < TWIN_SHARE / 2
    views = sample_views(scene := sample_wide_scene(rng), scene.objects[0], 0, rng)
    assert [view.frame for view in views] == ["000010", "000020", "000030", "000040", "000050"]


def test_dilation_by_hand() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = mask[0, 0] = True
    wanted = np.zeros((9, 9), bool)
    wanted[4 - DILATION_PIXELS : 5 + DILATION_PIXELS, 4 - DILATION_PIXELS : 5 + DILATION_PIXELS] = True
    wanted[: DILATION_PIXELS + 1, : DILATION_PIXELS + 1] = True
    assert np.array_equal(dilate(mask), wanted)
    assert not dilate(np.zeros((9, 9), bool)).any()


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "miniature.x3", "--root", str(tmp_path), "--scenes", "1", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("*.png"))) == 4 * VIEWS * 4
