"""`assay spatial build`: layout, names, answers, and that nothing is left out in silence."""

import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from x3_data import HEIGHT, WIDTH, box_mask, write_object, write_view

from assay.cli import app
from assay.errors import ConfigError
from miniature.x3 import write_x3
from pipelines.spatial_tasks.building.command import spatial_build
from pipelines.spatial_tasks.building.mark_worker import mark
from pipelines.spatial_tasks.masks import read_mask, read_picture
from pipelines.spatial_tasks.points import read_answer
from pipelines.status_command import summary

SOLID, RING, NOTHING = box_mask((4, 2, 9, 7)), box_mask((3, 3, 10, 9), ring=True), box_mask(None)
ALL_FILES = {
    *(f"t1_{split}_{form}.json" for split in ("train", "val") for form in ("multi", "concat")),
    *(f"t2{part}_{split}_multi.json" for part in "ab" for split in ("train", "val")),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two scenes: all ordinary, but for one view in which the object is missing and one whose middle is a hole."""
    root = tmp_path / "data"
    write_object(root / "train/s2/uid_7", [SOLID, RING, NOTHING, SOLID, SOLID])
    write_object(root / "train/s1/uid_10", [RING, SOLID, SOLID, SOLID, SOLID])
    write_object(root / "train/s1/uid_9", [SOLID, RING, SOLID, SOLID, SOLID])
    write_object(root / "validation/s3/uid_1", [SOLID, RING, RING, NOTHING, SOLID])
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def build(data: Path, out: Path, *settings: str) -> int:
    return spatial_build(None, [f"data_root={data}", f"out_dir={out}", *settings])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def answer(row: dict[str, Any]) -> str:
    return row["conversations"][1]["value"]


def snapshot(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.name != "run.log"
    }


def test_files_rows_and_pictures_are_where_the_protocol_has_them(data: Path, out: Path) -> None:
    assert build(data, out) == 0
    assert {path.name for path in out.glob("t*.json")} == ALL_FILES
    rows = read(out / "t1_val_multi.json")
    assert [row["id"] for row in rows] == [f"T1_MULTI_s3_uid1_A01000100_B0{k}000{k}00" for k in (2, 3, 4, 5)]
    first = rows[0]
    folder = data / "validation/s3/uid_1"
    assert first["image"] == [
        str(out / "marked_abs/validation/s3/uid_1/01_000100_marked.png"),
        str(folder / "02_000200_original.png"),
    ]
    assert first["query_original"] == first["image"][1]
    assert first["mask"] == str(folder / "02_000200_mask_dialated.png")
    assert [turn["from"] for turn in first["conversations"]] == ["human", "gpt"]
    assert [row["task"] for row in rows] == ["t1_multi"] * 4
    # (4 + 8) / 2 = 6 and (2 + 6) / 2 = 4, plus a half, of 20 and of 12.
    assert answer(rows[3]) == "[(0.325, 0.375)]"
    assert answer(rows[2]) == "NOT_VISIBLE"

    missing = read(out / "t2a_val_multi.json")
    assert [row["id"] for row in missing] == ["T2A_MULTI_s3_uid1_A01000100_B04000400"]
    assert {key: missing[0][key] for key in ("image", "conversations")} == {
        key: rows[2][key] for key in ("image", "conversations")
    }
    differences = read(out / "t2b_val_multi.json")
    assert [row["id"] for row in differences] == [f"T2B_MULTI_s3_uid1_K0{k}000{k}00" for k in (1, 2, 3, 5)]
    assert differences[0]["image"] == [
        str(folder / "01_000100_original.png"),
        str(folder / "01_000100_inpainted.png"),
    ]
    assert differences[0]["query_original"] == differences[0]["image"][1]
    every = [row for name in ALL_FILES for row in read(out / name)]
    assert len({row["id"] for row in every}) == len(every)
    assert not any("<image>" in row["conversations"][0]["value"] for row in every)
    assert all(Path(path).is_absolute() and Path(path).is_file() for row in every for path in np.ravel(row["image"]))


def test_concatenated_answers_are_points_of_the_whole_picture(data: Path, out: Path) -> None:
    """Defect a of the reference: there, the question speaks of the whole picture and the answer of its right half."""
    assert build(data, out) == 0
    pairs, whole = read(out / "t1_val_multi.json"), read(out / "t1_val_concat.json")
    assert [row["id"] for row in whole] == [row["id"].replace("MULTI", "CONCAT") for row in pairs]
    for pair, row in zip(pairs, whole, strict=True):
        wanted, found = read_answer(answer(pair)).point, read_answer(answer(row)).point
        assert (wanted is None) == (found is None)
        if wanted and found:
            assert found == pytest.approx((0.5 + wanted.x / 2, wanted.y), abs=0.00101)
        # The reference point (6.5 of 20, 4.5 of 12), in the left half.
        assert "The point [(0.163, 0.375)] lies on an object of the left one" in row["conversations"][0]["value"]
    picture = Image.open(whole[0]["image"])
    assert whole[0]["image"] == str(out / "concat_abs/validation/s3/uid_1/01000100_to_02000200_concat.jpg")
    assert picture.size == (2 * WIDTH, HEIGHT)
    left, right = (read_picture(data / f"validation/s3/uid_1/{n}_original.png") for n in ("01_000100", "02_000200"))
    assert np.abs(np.asarray(picture).astype(int) - np.concatenate([left, right], axis=1)).max() < 12  # JPEG
    assert picture.layers == 3
    assert [component[1:3] for component in picture.layer] == [(1, 1)] * 3, "colours are not to be halved"


def test_pictures_of_unequal_size_are_padded_below_and_points_follow(data: Path, out: Path) -> None:
    folder = data / "validation/s3/uid_1"
    for path in folder.glob("05_*"):
        path.unlink()
    write_view(folder, 5, box_mask((10, 10, 20, 20), width=60, height=24))
    assert build(data, out) == 0
    row = read(out / "t1_val_concat.json")[3]
    assert Image.open(row["image"]).size == (WIDTH + 60, 24)
    assert "[(0.081, 0.188)]" in row["conversations"][0]["value"]  # 6.5 of 80, 4.5 of 24
    assert answer(row) == "[(0.438, 0.625)]"  # 20 + 15 of 80, 15 of 24
    assert np.asarray(Image.open(row["image"]))[HEIGHT + 4 :, : WIDTH - 8].max() < 4


def test_the_mark_is_red_over_the_mask_alone(data: Path, out: Path) -> None:
    assert build(data, out, "alpha=0.25") == 0
    original = read_picture(data / "train/s2/uid_7/01_000100_original.png")
    marked = read_picture(out / "marked_abs/train/s2/uid_7/01_000100_marked.png")
    assert np.array_equal(marked[~SOLID], original[~SOLID])
    # (40, x, 40) becomes 0.75 of it and a quarter of 255, cut off.
    assert tuple(marked[2, 4]) == (93, 3, 30)
    assert np.array_equal(mark(original, NOTHING, 0.9), original)


def test_the_same_again_and_after_a_loss_and_elsewhere(data: Path, out: Path, tmp_path: Path) -> None:
    assert build(data, out) == 0
    before = snapshot(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert build(data, out) == 0
    assert snapshot(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == times, "nothing is done twice"
    (out / "marked_abs/train/s1/uid_9/01_000100_marked.png").write_bytes(b"half")
    shutil.rmtree(out / "concat_abs/train/s2")
    (out / "t1_val_multi.json").unlink()
    assert build(data, out) == 0
    assert snapshot(out) == before
    # In two parts, the second one first.
    other = tmp_path / "parts"
    assert build(data, other, "shard=1/2") == build(data, other, "shard=0/2") == 0
    assert {name: content.replace(bytes(other), bytes(out)) for name, content in snapshot(other).items()} == before
    for name in ALL_FILES:
        (out / name).unlink()
    assert summary(out) == 0
    assert snapshot(out) == before


def test_changed_data_are_built_again(data: Path, out: Path) -> None:
    assert build(data, out) == 0
    write_view(data / "validation/s3/uid_1", 5, box_mask((0, 0, 2, 2)))
    assert build(data, out) == 0
    assert answer(read(out / "t1_val_multi.json")[3]) == "[(0.050, 0.083)]"


def test_random_points_depend_on_their_view_alone(data: Path, out: Path, tmp_path: Path) -> None:
    """More scenes change no answer; the seed does; each point lies on its mask."""
    assert build(data, out) == 0
    ring = [answer(row) for row in read(out / "t1_val_multi.json")[:2]]
    x, y = read_answer(ring[0]).point or (0, 0)
    assert RING[int(y * HEIGHT), int(x * WIDTH)]
    shutil.rmtree(data / "train/s1")
    assert build(data, tmp_path / "fewer") == 0
    assert [answer(row) for row in read(tmp_path / "fewer/t1_val_multi.json")[:2]] == ring
    assert build(data, tmp_path / "seeded", "seed=1") == 0
    assert [answer(row) for row in read(tmp_path / "seeded/t1_val_multi.json")[:2]] != ring


def reference_answers(data: Path, seed: int) -> list[str]:
    """The reference's order and generator, written once more: one generator, asked for each view that needs it."""
    generator, answers = random.Random(seed), []
    folders = [f"train/{name}" for name in ("s1/uid_10", "s1/uid_9", "s2/uid_7")] + ["validation/s3/uid_1"]
    for folder in folders:
        for number in range(1, 6):
            mask = read_mask(data / folder / f"{number:02d}_{number:04d}00_mask_dialated.png")
            pixels = [(x, y) for y in range(HEIGHT) for x in range(WIDTH) if mask[y, x]]
            if not pixels:
                answers.append("NOT_VISIBLE")
                continue
            xs, ys = zip(*pixels, strict=True)
            middle = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2)
            is_in = (round(middle[0]), round(middle[1])) in pixels
            x, y = middle if is_in else pixels[generator.randrange(len(pixels))]
            answers.append(f"[({(x + 0.5) / WIDTH:.3f}, {(y + 0.5) / HEIGHT:.3f})]")
    return answers


@pytest.mark.parametrize("seed", [42, 5])
def test_compat_draws_from_one_generator_in_the_references_order(data: Path, out: Path, seed: int) -> None:
    assert build(data, out, "compat=true", f"seed={seed}") == 0
    wanted = reference_answers(data, seed)
    found = [answer(row) for split in ("train", "val") for row in read(out / f"t1_{split}_multi.json")]
    assert found == [one for start in range(0, 20, 5) for one in wanted[start + 1 : start + 5]]
    # Defect a: the answer about the whole picture is the query's own point.
    for split in ("train", "val"):
        pairs, whole = read(out / f"t1_{split}_multi.json"), read(out / f"t1_{split}_concat.json")
        assert [answer(row) for row in whole] == [answer(row) for row in pairs]
    keys = {"id", "task", "image", "query_original", "conversations"}
    assert all(set(row) == keys for name in ALL_FILES for row in read(out / name))
    picture = Image.open(read(out / "t1_val_concat.json")[0]["image"])
    assert picture.layer[0][1:3] == (2, 2)


def test_compat_writes_no_answers_before_all_views_are_known(data: Path, out: Path) -> None:
    assert build(data, out, "compat=true", "shard=0/2") == 0
    assert not list(out.glob("t*.json"))
    assert (out / "build_report.json").exists()
    assert build(data, out, "compat=true") == 0
    assert len(read(out / "t1_train_multi.json")) == 12


def test_a_reference_without_the_object_asks_nothing_in_either_form(data: Path, out: Path, tmp_path: Path) -> None:
    """Defect f: there, pairs of two pictures are kept and concatenated ones are not."""
    for folder, settings in ((out, []), (tmp_path / "compat", ["compat=true"])):
        assert build(data, folder, "mode=anchor", "anchor_k=4", *settings) == 0
    assert [read(out / f"t1_val_{form}.json") for form in ("multi", "concat")] == [[], []]
    assert read(out / "build_report.json")["pairs_without_the_object_in_the_reference"] == 4
    assert [len(read(tmp_path / f"compat/t1_val_{form}.json")) for form in ("multi", "concat")] == [4, 0]


def test_all_pairs(data: Path, out: Path) -> None:
    assert build(data, out, "mode=allpairs") == 0
    rows = read(out / "t1_val_multi.json")
    assert len(rows) == len(read(out / "t1_val_concat.json")) == 4 * 4
    assert len({tuple(row["image"]) for row in rows}) == 16
    assert len(read(out / "t2a_val_multi.json")) == 4


def test_what_is_missing_or_broken_is_told(data: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data / "validation/s3/uid_1"
    for name in ("02_000200_original.png", "03_000300_mask.png", "03_000300_mask_dialated.png"):
        (folder / name).unlink()
    (folder / "04_000400_inpainted.png").write_bytes(b"\x89PNG")
    (data / "train/s2/uid_7/04_000400_original.png").write_bytes(b"no picture")
    (data / "train/s2/uid_7/05_000500_inpainted.png").unlink()
    (data / "train/s1/uid_9/02_000200_mask_dialated.png").unlink()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(data / "train/s1/uid_9/03_000300_mask_dialated.png")
    shutil.copy(data / "train/s1/uid_9/04_000400_original.png", data / "train/s1/uid_9/04_000999_original.png")
    (data / "train/s1/uid_10/05_000500_original.png").unlink()
    os.symlink(data / "nowhere.png", data / "train/s1/uid_10/05_000500_original.png")
    assert build(data, out) == 1
    report = read(out / "build_report.json")
    told = [f"{one['object']}: {one['problem']}" for one in report["problems"]]
    wanted = [
        "train/s1/uid_10: view 05: .*05_000500_original.png cannot be read: .*No such file.*; left out",
        "train/s1/uid_9: view 02: there is no 02_000200_mask_dialated.png; 02_000200_mask.png is taken",
        "train/s1/uid_9: view 03: .*_mask_dialated.png is 3 x 3, and .*_original.png is 20 x 12; left out",
        "train/s1/uid_9: view 04: 2 files are its original; 04_000400_original.png is taken",
        "train/s2/uid_7: view 04: .*04_000400_original.png cannot be read: cannot identify.*; left out",
        "train/s2/uid_7: view 05: there is no 05_000500_inpainted.png; no difference is asked for",
        "validation/s3/uid_1: view 02: there is no 02_.*_original.png",
        "validation/s3/uid_1: view 03: there is no 03_000300_mask_dialated.png and no 03_000300_mask.png; left out",
        "validation/s3/uid_1: view 04: .*04_000400_inpainted.png cannot be read: .*; no difference is asked for",
    ]
    for pattern in wanted:
        assert len([one for one in told if re.match(pattern, one)]) == 1, (pattern, told)
    assert len(told) == len(wanted)
    assert "9 PROBLEMS of 4 objects" in capsys.readouterr().out
    assert [row["id"][-9:] for row in read(out / "t1_val_multi.json")] == ["B04000400", "B05000500"]
    assert len(read(out / "t1_val_multi.json")) == len(read(out / "t1_val_concat.json")) == 2
    assert report["samples"]["t1_val_multi.json"] == 2


def test_the_tight_mask_on_request_and_without_concatenation(data: Path, out: Path) -> None:
    grown = box_mask((3, 1, 12, 8))
    Image.fromarray(grown.astype(np.uint8) * 255).save(data / "validation/s3/uid_1/05_000500_mask_dialated.png")
    assert build(data, out) == 0
    assert answer(read(out / "t1_val_multi.json")[3]) == "[(0.375, 0.375)]"
    assert build(data, out, "use_dilated_mask=false", "emit_concat=0") == 0
    assert answer(read(out / "t1_val_multi.json")[3]) == "[(0.325, 0.375)]"
    assert read(out / "t1_val_multi.json")[3]["mask"].endswith("05_000500_mask.png")
    assert not list(out.glob("*concat.json"))


def test_the_miniature_has_the_same_questions_as_its_truth(tmp_path: Path) -> None:
    write_x3(tmp_path / "x3", 5, seed=0)
    assert build(tmp_path / "x3", tmp_path / "out", "use_dilated_mask=false") == 0
    truth = {
        (line["scene"], line["uid"], line["view"]): line
        for line in map(json.loads, (tmp_path / "x3/truth.jsonl").read_text().splitlines())
    }
    rows = [row for split in ("train", "val") for row in read(tmp_path / f"out/t1_{split}_multi.json")]
    assert len(rows) == 5 * 4 * 4
    for row in rows:
        scene, uid = row["id"].split("_")[2:4]
        line = truth[scene, uid.removeprefix("uid"), int(row["id"].rpartition("_B")[2][:2])]
        point = read_answer(answer(row)).point
        assert (point is not None) == line["visible"]
        if point:
            x1, y1, x2, y2 = line["box"]
            assert x1 <= point.x * 64 <= x2
            assert y1 <= point.y * 64 <= y2
    problems = read(tmp_path / "out/build_report.json")["problems"]
    assert problems == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["anchor_k=6"], "anchor_k = 6: .*less than or equal to 5"),
        (["alpha=1.5"], "alpha = 1.5"),
        (["mode=pairs"], "mode = 'pairs': .*'anchor' or 'allpairs'"),
        (["data_root=nowhere"], "data_root = nowhere: there is no object in it"),
    ],
)
def test_wrong_settings_are_named(data: Path, out: Path, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(data, out, *settings)
    shutil.copytree(data / "validation", data / "val")
    with pytest.raises(ConfigError, match="both validation and val"):
        build(data, out)


def test_the_command_line(data: Path, out: Path) -> None:
    flags = ["--data_root", str(data), "--out_dir", str(out), "--mode", "anchor", "--anchor_k", "1"]
    more = ["--alpha", "0.45", "--use_dilated_mask", "--emit_concat", "1", "--seed", "3", "--compat"]
    result = CliRunner().invoke(app, ["spatial", "build", *flags, *more])
    assert result.exit_code == 0, result.output
    assert read(out / "derivation.json") == {
        "data_root": str(data),
        "mode": "anchor",
        "anchor_k": 1,
        "alpha": 0.45,
        "use_dilated_mask": True,
        "emit_concat": True,
        "seed": 3,
        "compat": True,
    }
