"""Data sets on disk say what their pictures show, as the GenEval service's own code sees it, and repeat."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from assay.outcomes import Scored
from assay.serving.scorer import Sample
from assay.tasks import GenEvalTask
from miniature.datasets import MOST_OFF, sample_pair, write_captioned_pictures, write_edits, write_pairs
from miniature.editing import WORDINGS
from services.geneval.service import build_scorers

ROOT = Path(__file__).parents[2]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def strict_share(rows: list[dict], root: Path, key: str) -> float:
    """Share of the pictures named by `key` that are exactly what their line asks for."""
    config = yaml.safe_load((ROOT / "configs/services/geneval.yaml").read_text())["scorer"]
    scorer = next(scorer for scorer in build_scorers(config) if scorer.info.name == "counting")
    samples = [
        Sample("", (np.asarray(Image.open(root / row[key])),), row["prompt"], GenEvalTask.from_metadata(row))
        for row in rows
    ]
    outcomes = [outcome for outcome in scorer.score(samples) if isinstance(outcome, Scored)]
    assert len(outcomes) == len(rows)
    name = "strict_correct" if key != "image" else "correct"
    return float(np.mean([outcome.components[name] for outcome in outcomes]))


def test_pictures_are_what_their_lines_say(tmp_path: Path) -> None:
    rows = lines(write_captioned_pictures(tmp_path, 60, seed=0))
    assert len({row["image"] for row in rows}) == 60
    assert all(row["image"].startswith("sft/") and {"prompt", "tag", "include"} <= row.keys() for row in rows)
    assert strict_share(rows, tmp_path, "image") >= 0.93


def test_captions_of_one_tag(tmp_path: Path) -> None:
    rows = lines(write_captioned_pictures(tmp_path, 20, seed=0, tag="position"))
    assert {row["tag"] for row in rows} == {"position"}
    assert len({row["prompt"] for row in rows}) > 10
    assert strict_share(rows, tmp_path, "image") >= 0.9


def test_chosen_fulfil_the_prompt_and_rejected_do_not(tmp_path: Path) -> None:
    rows = lines(write_pairs(tmp_path, 40, seed=0))
    assert strict_share(rows, tmp_path, "chosen") >= 0.93
    assert strict_share(rows, tmp_path, "rejected") <= 0.03


def test_sources_of_edits_do_not_fulfil_their_tasks_yet(tmp_path: Path) -> None:
    """But for moves, a quarter of all, whose task does not speak of places."""
    rows = lines(write_edits(tmp_path, 40, seed=0))
    assert len({row["references"][0] for row in rows}) == 40
    stay = [{**row, "chosen": row["references"][0]} for row in rows if not is_move(row["prompt"])]
    assert 20 <= len(stay) < 40
    assert strict_share(stay, tmp_path, "chosen") <= 0.05


def is_move(instruction: str) -> bool:
    return instruction.split()[0] in {wording.split()[0] for wording in WORDINGS["move"]}


def test_nothing_but_the_count_tells_a_pair_apart() -> None:
    for index in range(200):
        pair = sample_pair(np.random.default_rng(index))
        assert pair.chosen.background == pair.rejected.background
        kinds = {(item.class_name, item.color) for scene in (pair.chosen, pair.rejected) for item in scene.objects}
        assert len(kinds) == 1
        (wanted,) = pair.metadata["include"]
        assert len(pair.chosen.objects) == wanted["count"]
        assert 0 < abs(len(pair.rejected.objects) - wanted["count"]) <= MOST_OFF


def test_the_same_arguments_write_the_same_files(tmp_path: Path) -> None:
    for number, folder in ((6, "first"), (6, "second"), (3, "fewer")):
        command = [sys.executable, "-m", "miniature.datasets", "--sft", str(number), "--pairs", str(number)]
        done = subprocess.run([*command, "--output", tmp_path / folder, "--seed", "3"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"{number} lines in {tmp_path / folder / 'sft.jsonl'}" in done.stdout
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert len(files) == 2 + 6 + 12
    assert all((tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes() for file in files)
    for name in ("sft.jsonl", "pairs.jsonl"):
        assert lines(tmp_path / "fewer" / name) == lines(tmp_path / "first" / name)[:3]
    other = lines(write_pairs(tmp_path / "other", 6, seed=4))
    assert other != lines(tmp_path / "first" / "pairs.jsonl")


@pytest.mark.parametrize("kind", ["image", "chosen"])
def test_paths_are_relative_to_the_file(tmp_path: Path, kind: str) -> None:
    write = write_captioned_pictures if kind == "image" else write_pairs
    (row,) = lines(write(tmp_path / "deep" / "folder", 1, seed=0))
    assert Image.open(tmp_path / "deep" / "folder" / row[kind]).size == (64, 64)
