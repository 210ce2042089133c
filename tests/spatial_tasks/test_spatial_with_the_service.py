"""The pipeline and the spatial service's own scorers agree: what is asked, what is read, and what is a hit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from x3_data import box_mask, write_object

from assay.serving.scorer import Sample
from assay.spatial_questions import read_spatial_questions
from assay.tasks import PointingTask
from assay.testing import serve_in_background
from miniature.recipes.spatial_questions import point_text
from pipelines.spatial_tasks.building.command import spatial_build
from pipelines.spatial_tasks.building.prompts import CORRESPONDENCE, DIFFERENCE
from pipelines.spatial_tasks.evaluation.command import spatial_eval
from pipelines.spatial_tasks.evaluation.judgement import Target, judge
from pipelines.spatial_tasks.points import Answer, Point
from services.spatial.pointing_scorer import PointingScorer
from services.spatial.truth import Truth

SAYINGS = [
    "[(0.325, 0.375)]",
    "[(0.663, 0.375)]",
    "NOT_VISIBLE",
    "[(0.2, 0.1667)]",
    "[(1.0, 1.0)]",
    "[(0.0, 0.0)]",
    "[(0.45, 0.4)]",
    "who knows",
    "[(1.5, 0.2)]",
    "[(0.5, 0.5)]",
    "It is NOT_VISIBLE, I think.",
    "[(0.3, 0.4), (0.9, 0.9)]",
]


class Scripted:
    """Writes a text by the inquiry's number, and remembers the inquiries."""

    deterministic = True

    def __init__(self) -> None:
        self.fingerprint_parts: dict[str, str] = {}
        self.asked: list[Any] = []

    def special_text(self, text: str) -> str | None:
        return None

    def input_size(self, image: NDArray[np.uint8]) -> tuple[int, int] | None:
        return None

    def write(self, inquiries: Sequence[Any], max_new_tokens: int) -> list[str]:
        self.asked += inquiries
        return [SAYINGS[len(self.asked) % len(SAYINGS) - number] for number in range(len(inquiries))]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("x3")
    solid, ring, nothing = box_mask((4, 2, 9, 7)), box_mask((3, 3, 10, 9), ring=True), box_mask(None)
    for uid, masks in enumerate([[solid, ring, nothing, solid, ring], [solid, solid, solid, nothing, ring]]):
        write_object(folder / f"data/val/s1/uid_{uid}", masks)
    assert spatial_build(None, [f"data_root={folder / 'data'}", f"out_dir={folder / 'out'}", "mode=allpairs"]) == 0
    return folder / "out"


@pytest.mark.parametrize("name", ["t1_val_multi", "t1_val_concat", "t2a_val_multi", "t2b_val_multi"])
def test_both_call_the_same_answers_hits(questions: Path, tmp_path: Path, name: str) -> None:
    writer, templates = Scripted(), read_spatial_questions()
    scorers = [PointingScorer(kind, writer, "roborefer", 64, templates) for kind in ("correspondence", "difference")]
    output = tmp_path / f"{name}.json"
    with serve_in_background(scorers) as server:
        flags = [f"data_json={questions / name}.json", f"output_json={output}", f"targets=[{server.target!r}]"]
        assert spatial_eval(None, flags) == 0
    found = json.loads(output.read_text())
    rows = json.loads((questions / f"{name}.json").read_text())
    assert found["answered"] == len(rows)
    assert found["service_judged_otherwise"] == found["target_not_as_mask"] == 0
    # Texts and what is read of them: refusals in passing, and points outside, are no answers.
    by_text = {row["pred_text"]: row["pred_parsed"] for row in found["results"]}
    for text, parsed in by_text.items():
        if text in ("who knows", "[(1.5, 0.2)]", "It is NOT_VISIBLE, I think."):
            assert parsed == {"is_not_visible": False, "coord": None}
        elif text == "NOT_VISIBLE":
            assert parsed == {"is_not_visible": True, "coord": None}
        else:
            assert parsed["coord"] is not None
    # The model is asked the row's own question, behind one mark a picture.
    asked = {inquiry.turns[0] for inquiry in writer.asked}
    marks = "<image>\n" * (1 if "concat" in name else 2)
    assert {marks + row["conversations"][0]["value"] for row in rows} <= asked


def test_pictures_and_masks_that_cannot_be_used_are_named_and_the_rest_is_answered(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((questions / "t1_val_multi.json").read_text())
    unreadable, truncated, small = (tmp_path / f"{name}.png" for name in ("unreadable", "truncated", "small"))
    unreadable.write_bytes(b"not a png !")
    truncated.write_bytes(Path(rows[1]["image"][1]).read_bytes()[:-30])
    Image.new("L", (10, 10), 255).save(small)
    for number in (0, 2, 3, 4):
        rows[number]["image"][0] = str(unreadable)
    rows[1]["image"][1] = str(truncated)
    rows[5]["mask"] = rows[6]["mask"] = str(small)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    writer, templates = Scripted(), read_spatial_questions()
    scorers = [PointingScorer(kind, writer, "roborefer", 64, templates) for kind in ("correspondence", "difference")]
    output = tmp_path / "found.json"
    with serve_in_background(scorers) as server:
        flags = [f"data_json={tmp_path / 'rows.json'}", f"output_json={output}", f"targets=[{server.target!r}]"]
        assert spatial_eval(None, flags) == 1
    found = json.loads(output.read_text())
    assert (found["without_score"], found["answered"]) == (7, len(rows) - 7)
    errors = [row["error"] for row in found["results"]]
    assert errors[0].startswith(f"{unreadable} cannot be read: ")
    assert errors[1].startswith(f"{truncated} cannot be read: ")
    assert errors[5] == "MASK_SIZE_MISMATCH: images: the mask is 10 x 10; allowed: the query's 20 x 12, so 20 x 12"
    assert errors[7:] == [None] * (len(rows) - 7)
    said = capsys.readouterr().out.splitlines()
    first = said.index("7 questions WITHOUT A SCORE, in none of the numbers")
    assert said[first + 1 : first + 6] == [f"  {rows[number]['id']}: {errors[number]}" for number in range(5)]
    assert said[first + 6] == "  ... and 2 more, in results"


def test_hits_by_both_rules_on_every_thousandth_of_a_picture() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        mask = rng.random((height, width)) < 0.5
        x, y = (int(share) / 1000 for share in rng.integers(0, 1001, 2))
        ours = judge(Answer(False, Point(x, y)), Target(Point(0.5, 0.5), mask))
        assert ours.hit == Truth(mask).is_hit(x, y)


def test_what_is_trained_on_is_what_the_service_measures_to() -> None:
    """The miniature's recipe and the service have one rule for the point of a mask."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        mask = rng.random((64, 64)) < 0.01
        if mask.any():
            x, y = Truth(mask).point or (0, 0)
            assert point_text(mask) == f"[({x:.3f}, {y:.3f})]"


def test_the_services_own_questions_are_the_builders() -> None:
    """One wording, so that a model trained on the built questions knows those of the service."""
    writer, picture = Scripted(), np.zeros((8, 8, 3), np.uint8)
    for name, built in (("correspondence", CORRESPONDENCE), ("difference", DIFFERENCE)):
        scorer = PointingScorer(name, writer, "roborefer", 64, read_spatial_questions())
        scorer.score([Sample("x", (picture, picture, picture), "", PointingTask())])
        assert writer.asked[-1].turns == (f"<image>\n<image>\n{built}",)
