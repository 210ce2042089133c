"""`assay spatial eval` and `zero-shot` against a served judge: frames, files, failures, resuming."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pointing_judges import Answering, PointingJudge, knows
from typer.testing import CliRunner
from x3_data import box_mask, write_object, write_view

from assay.cli import app
from assay.errors import ConfigError
from assay.outcomes import Failed, Scored
from assay.serving.scorer import Sample
from assay.tasks import PointingTask
from assay.testing import BackgroundServer, FaultInjector, serve_in_background
from miniature.x3 import write_x3
from pipelines.reward_service import ServiceAddress
from pipelines.spatial_tasks.building.command import spatial_build
from pipelines.spatial_tasks.building.concat_worker import load_concat_worker
from pipelines.spatial_tasks.building.mark_worker import load_mark_worker
from pipelines.spatial_tasks.evaluation.ask_worker import LoadAskWorker
from pipelines.spatial_tasks.evaluation.command import spatial_eval
from pipelines.spatial_tasks.evaluation.metrics import named_metrics
from pipelines.spatial_tasks.evaluation.page import badness, draw
from pipelines.spatial_tasks.evaluation.rows import find_mask, read_rows
from pipelines.spatial_tasks.evaluation.settings import EvalSettings
from pipelines.spatial_tasks.points import Point
from pipelines.spatial_tasks.zero_shot import TASKS, spatial_zero_shot, table
from pipelines.status_command import summary

ROOT = Path(__file__).parents[2]
KEYS = list(named_metrics([]))
SOLID, RING, NOTHING = box_mask((4, 2, 9, 7)), box_mask((3, 3, 10, 9), ring=True), box_mask(None)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about two objects, right and as the reference makes them."""
    folder = tmp_path_factory.mktemp("x3")
    write_object(folder / "data/validation/s1/uid_1", [SOLID, RING, NOTHING, SOLID, SOLID])
    wide = write_object(folder / "data/validation/s1/uid_2", [SOLID, NOTHING, RING, SOLID])
    write_view(wide, 5, box_mask((10, 10, 20, 20), width=60, height=24))
    for name, compat in (("out", "false"), ("compat", "true")):
        spatial_build(None, [f"data_root={folder / 'data'}", f"out_dir={folder / name}", f"compat={compat}"])
    return folder


@contextmanager
def served(answer: Answering, **settings: Any) -> Iterator[tuple[BackgroundServer, list[PointingJudge]]]:
    judges = [PointingJudge(name, answer) for name in ("correspondence", "difference")]
    with serve_in_background(judges, **settings) as server:
        yield server, judges


def run(data: Path, output: Path, server: BackgroundServer, *settings: str) -> tuple[int, dict[str, Any]]:
    flags = [f"data_json={data}", f"output_json={output}", f"targets=[{server.target!r}]", *settings]
    code = spatial_eval(None, flags)
    return code, json.loads(output.read_text())


@pytest.mark.parametrize("name", TASKS.values())
def test_right_answers_are_right_in_every_task(built: Path, tmp_path: Path, name: str) -> None:
    with served(knows) as (server, judges):
        code, found = run(built / f"out/{name}.json", tmp_path / f"{name}.json", server)
    assert code == 0
    rows = json.loads((built / f"out/{name}.json").read_text())
    numbers = found["metrics"]
    assert list(numbers) == KEYS
    assert numbers["total"] == len(rows) == found["answered"] == found["questions"]
    assert numbers["hit_at_mask"] == (numbers["visible_gt"] > 0)
    assert numbers["not_visible_accuracy"] == (numbers["gt_not_visible"] > 0)
    assert found["robust"]["coverage"]["value"] == found["robust"]["accuracy"]["value"] == 1
    assert (found["without_score"], found["target_not_as_mask"], found["service_judged_otherwise"]) == (0, 0, 0)
    assert found["masks"] == {"dilated": len(rows)}
    assert [row["id"] for row in found["results"]] == [row["id"] for row in rows]
    # What was asked: the row's text, its pictures in their order, and the mask in the query's size.
    asked = {sample.id: sample for judge in judges for sample in judge.asked}
    for row in rows:
        sample = asked[row["id"]]
        assert sample.task == PointingTask(row["conversations"][0]["value"])
        pictures = [row["image"]] if isinstance(row["image"], str) else row["image"]
        for path, pixels in zip(pictures, sample.images[:-1], strict=True):
            assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), pixels)
        query = Image.open(row["query_original"])
        assert sample.images[-1].shape[:2] == (query.height, query.width)
        assert np.array_equal(sample.images[-1][..., 0] > 0, np.asarray(Image.open(row["mask"])) > 0)
    assert bool(judges[1].asked) == (name == "t2b_val_multi")


def test_concatenated_and_paired_answers_measure_alike(built: Path, tmp_path: Path) -> None:
    """The same mistake, 0.2 to the right of the box's middle, in both frames (defects a and g of the reference)."""

    def beside(sample: Sample) -> str:
        *pictures, mask = sample.images
        width, whole, x = mask.shape[1], pictures[0].shape[1], 0.325 + 0.2
        return f"[({(whole - width + x * width) / whole if len(pictures) == 1 else x}, 0.375)]"

    with served(beside) as (server, _):
        found = [
            run(built / f"out/t1_val_{form}.json", tmp_path / f"{form}.json", server, "limit=4")[1]
            for form in ("multi", "concat")
        ]
    pairs, whole = found
    solid = [(a, b) for a, b in zip(pairs["results"], whole["results"], strict=True) if "(0.325" in a["gt"]["text"]]
    assert len(solid) == 2
    for one, other in solid:
        assert one["l2_error"] == pytest.approx(0.2)
        assert one["l2_px"] == pytest.approx(4)
        assert other["l2_error"] == pytest.approx(0.2, abs=0.0011)  # three decimals of the whole picture
        assert other["pred_parsed"]["coord"][0] == pytest.approx(0.525)


def test_compat_counts_as_the_reference(built: Path, tmp_path: Path) -> None:
    """Of what the reference builds: the right answer is half a picture away from its own, and refusals are nowhere."""
    with served(lambda sample: "[(0.325, 0.375)]") as (server, _):
        _, found = run(built / "compat/t1_val_concat.json", tmp_path / "left.json", server, "compat=true")
        _, ours = run(built / "compat/t1_val_concat.json", tmp_path / "left.json", server)
    assert found["metrics"]["hit_at_mask"] == 0
    visible = found["metrics"]["visible_gt"]
    at_zero = [row for row in found["results"] if row["gt"]["text"] == "[(0.325, 0.375)]"]
    assert [(row["l2_error"], row["hit_mask"], row["success_l2_010"]) for row in at_zero] == [(0.0, False, True)] * 3
    assert found["metrics"]["success_002"] == 3 / visible
    assert ours["metrics"]["success_010"] == 0  # where it points is on the reference
    assert ours["robust"]["coverage"]["value"] == ours["robust"]["visible_recall"]["value"] == 1
    assert ours["results"][0]["pred_parsed"]["coord"] == [pytest.approx(-0.35), pytest.approx(0.375)]
    assert all("l2_px" not in row for row in found["results"])
    answers = iter(["NOT_VISIBLE", "[(0.325, 0.375)]", "who knows", "NOT_VISIBLE", "[(0.9, 0.9)]", "NOT_VISIBLE"] * 2)
    with served(lambda sample: next(answers), max_batch_items=1) as (server, _):
        _, found = run(
            built / "compat/t1_val_multi.json", tmp_path / "some.json", server, "compat=true", "batch_size=1"
        )
    numbers = found["metrics"]
    points = [row for row in found["results"] if row["pred_parsed"]["coord"] and not row["gt"]["is_not_visible"]]
    assert numbers["hit_at_mask_total"] == len(points) < numbers["visible_gt"]
    assert numbers["hit_at_mask_count"] == sum(row["hit_mask"] for row in points)
    assert found["robust"]["hit_rate"]["n"] == numbers["visible_gt"]


def test_a_mask_is_looked_for_as_the_protocol_says(tmp_path: Path) -> None:
    names = ("01_1_original.png", "01_1_inpainted.png", "plain.png", "01_1_mask.png", "plain_mask.png", "no.jpg")
    for name in names:
        (tmp_path / name).touch()

    def found(query: str) -> str | None:
        path = find_mask(tmp_path / query)
        return path and path.name

    assert [found(name) for name in names[:3]] == ["01_1_mask.png", "01_1_mask.png", "plain_mask.png"]
    for name in ("01_1_mask_dialated.png", "plain_mask_dialated.png"):
        (tmp_path / name).touch()
    assert [found(name) for name in names[:3]] == [
        "01_1_mask_dialated.png",
        "01_1_mask_dialated.png",
        "plain_mask_dialated.png",
    ]
    assert found("no.jpg") is None  # the reference takes the picture itself for its mask
    assert found("02_2_original.png") is None


def test_a_row_names_its_mask_but_for_the_reference(built: Path) -> None:
    rows = json.loads((built / "out/t1_val_multi.json").read_text())
    tight = rows[0]["mask"].replace("_mask_dialated", "_mask")
    data = built / "tight.json"
    data.write_text(json.dumps([{**rows[0], "mask": tight}]))
    assert str(read_rows(data, Path("/"), compat=False).questions[0].mask) == tight
    assert str(read_rows(data, Path("/"), compat=True).questions[0].mask) == rows[0]["mask"]


def test_rows_of_others_are_read(built: Path, tmp_path: Path) -> None:
    """Relative paths, no task, no query: what the protocol asks for and no more."""
    row = json.loads((built / "compat/t2b_val_multi.json").read_text())[0]
    short = [str(Path(path).relative_to(built)) for path in row["image"]]
    bare = {"id": row["id"], "image": short, "conversations": row["conversations"]}
    (tmp_path / "rows.json").write_text(json.dumps([bare]))
    (question,) = read_rows(tmp_path / "rows.json", built, compat=False).questions
    assert (question.scorer, question.query) == ("difference", Path(row["image"][1]))
    assert question.mask == Path(row["image"][1].replace("_inpainted", "_mask_dialated"))


def test_what_cannot_be_asked_is_no_number(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads((built / "out/t1_val_multi.json").read_text())
    broken = tmp_path / "01_original.png"
    rows[0] = {**rows[0], "image": [str(tmp_path / "nowhere.png"), rows[0]["image"][1]]}
    rows[1] = {**rows[1], "mask": None, "query_original": str(broken)}
    rows.insert(3, {key: value for key, value in rows[3].items() if key != "conversations"})
    (tmp_path / "rows.json").write_text(json.dumps(rows))

    def answer(sample: Sample) -> str | Failed:
        if sample.id == rows[2]["id"]:
            return Failed("INVALID_ARGUMENT", "PROMPT_TOO_LONG", "the question is too long")
        return knows(sample)

    with served(answer) as (server, _):
        code, found = run(tmp_path / "rows.json", tmp_path / "found.json", server)
    assert code == 1
    errors = [row["error"] for row in found["results"][:3]]
    assert "nowhere.png" in errors[0]
    assert errors[1] == f"{broken} has no mask beside it"
    assert errors[2] == "PROMPT_TOO_LONG: the question is too long"
    assert (found["without_score"], found["metrics"]["total"], found["answered"]) == (3, 5, 5)
    (left_out,) = found["rows_left_out"]
    assert left_out == "row 3: lacks image or the two turns of conversations: KeyError('conversations')"
    assert left_out in capsys.readouterr().out
    assert "row 3: lacks image" in (tmp_path / "found.html").read_text()
    assert found["results"][0]["pred_parsed"] is found["results"][0]["hit_mask"] is None
    assert "no score" in (tmp_path / "found.html").read_text()


def test_a_lost_reply_changes_nothing_and_nothing_is_asked_twice(built: Path, tmp_path: Path) -> None:
    data = built / "out/t1_val_multi.json"
    with served(knows) as (server, _):
        _, wanted = run(data, tmp_path / "calm.json", server)
    faults = FaultInjector(seed=1, reply_lost=0.5, request_lost=0.3, faults=4)
    with served(knows, faults=faults) as (server, _):
        _, found = run(data, tmp_path / "stormy.json", server, "batch_size=2")
    assert faults.counts["reply_lost"] + faults.counts["request_lost"] > 0
    assert found == wanted
    with served(knows) as (server, judges):
        code, again = run(data, tmp_path / "calm.json", server)
        assert (code, again) == (0, wanted)
        assert judges[0].asked == []
    # Half of it, then the other half; then a judge with other weights, which is asked all.
    with served(knows) as (server, _):
        _, part = run(data, tmp_path / "parts.json", server, "batch_size=2", "indices=0-1")
        assert part["answered"] == 4
        _, whole = run(data, tmp_path / "parts.json", server, "batch_size=2")
    assert whole == wanted
    other = [PointingJudge(name, lambda sample: "NOT_VISIBLE", "2") for name in ("correspondence", "difference")]
    with serve_in_background(other) as server:
        _, changed = run(data, tmp_path / "parts.json", server, "batch_size=2")
    assert changed["robust"]["visible_recall"]["value"] == 0
    (tmp_path / "parts.json").unlink()
    assert summary(tmp_path / "parts") == 0
    assert json.loads((tmp_path / "parts.json").read_text()) == changed


SLOW_RUN = """
import sys
from pipelines.spatial_tasks.evaluation.command import spatial_eval
sys.exit(spatial_eval(None, sys.argv[1:]))
"""


def test_a_killed_run_goes_on_to_the_same_numbers(built: Path, tmp_path: Path) -> None:
    data, output = built / "out/t1_val_multi.json", tmp_path / "killed.json"

    def slowly(sample: Sample) -> str:
        time.sleep(0.3)
        return knows(sample)

    with served(slowly, max_batch_items=1) as (server, _):
        flags = [f"data_json={data}", f"output_json={output}", f"targets=[{server.target!r}]", "batch_size=1"]
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW_RUN, *flags], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        deadline = time.monotonic() + 240
        while not list((tmp_path / "killed/answers").glob("*/answers.json")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not output.exists()
    with served(knows) as (server, judges):
        _, found = run(data, output, server, "batch_size=1")
        assert 0 < len(judges[0].asked) < 8
        _, wanted = run(data, tmp_path / "whole.json", server, "batch_size=1")
    assert found == wanted


def test_the_page_shows_the_worst_first_and_holds_its_pictures(built: Path, tmp_path: Path) -> None:
    answers = ["[(0.95, 0.95)]", "hm", "NOT_VISIBLE", "[(0.33, 0.375)]", "NOT_VISIBLE", "[(0.1, 0.1)]"]
    answers += ["[(0.5, 0.5)]", "[(0.26, 0.625)]"]
    by_id = {
        row["id"]: answer
        for row, answer in zip(json.loads((built / "out/t1_val_multi.json").read_text()), answers, strict=True)
    }
    with served(lambda sample: by_id.get(sample.id, "NOT_VISIBLE")) as (server, _):
        run(built / "out/t1_val_multi.json", tmp_path / "page.json", server)
    page = (tmp_path / "page.html").read_text()
    verdicts = [line.split("</b>")[0].rpartition("<b>")[2] for line in page.splitlines() if "<figcaption>" in line]
    assert verdicts[0] == "cannot be read"
    assert verdicts.index("beside the target") < verdicts.index("hit")
    assert verdicts[-1] in ("rightly not visible", "hit")
    assert set(verdicts) >= {"cannot be read", "beside the target", "hit", "rightly not visible"}
    assert page.count("data:image/jpeg;base64,") == 16
    assert 'src="/' not in page
    assert "http" not in page


def test_what_is_drawn_is_where_it_should_be() -> None:
    grey = Image.new("RGB", (20, 12), (128, 128, 128))
    pixels = np.asarray(draw(grey, SOLID, None, None))
    assert pixels.shape == (12 * 16, 20 * 16, 3)
    green = (pixels != 128).any(-1)
    assert np.array_equal(green, np.kron(SOLID, np.ones((16, 16), bool)))
    marked = (np.asarray(draw(grey, None, Point(0.25, 0.5), Point(0.75, 0.5))) != 128).any(-1)
    rows, columns = np.nonzero(marked)
    assert {int(columns[columns < 160].mean()), int(columns[columns > 160].mean())} <= {79, 80, 239, 240}
    assert abs(rows.mean() - 95.5) < 1
    outside = np.asarray(draw(grey, None, None, Point(-0.6, 2.0)))
    assert (outside[-8:, :8] != 128).any()


def test_badness_orders_by_kind_then_distance(built: Path, tmp_path: Path) -> None:
    from pipelines.spatial_tasks.evaluation.judgement import Judgement
    from pipelines.spatial_tasks.evaluation.results import Result

    def result(judged: Judgement | None) -> Result:
        return Result(0, "", "", (), "", None, "", judged=judged)

    ordered = [
        None,
        Judgement(True, False, False),
        Judgement(True, True, True),
        Judgement(True, True, False, False, 0.9, 40.0),
        Judgement(True, True, False, False, 0.1, 4.0),
        Judgement(True, True, False, True, 0.1, 4.0),
        Judgement(False, True, True),
    ]
    worst = [badness(result(one)) for one in ordered]
    assert worst == sorted(worst, reverse=True)


def test_zero_shot_builds_once_and_puts_four_rows_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_x3(tmp_path / "x3", 5, seed=2)
    with served(knows) as (server, _):
        flags = ["--data_root", str(tmp_path / "x3"), "--out_dir", str(tmp_path / "questions")]
        flags += ["--output_dir", str(tmp_path / "eval"), "--target", server.target]
        result = CliRunner().invoke(app, ["spatial", "zero-shot", *flags])
        assert result.exit_code == 0, result.output
        built = (tmp_path / "questions/t1_val_multi.json").stat().st_mtime_ns
        again = [f"out_dir={tmp_path / 'questions'}", f"output_dir={tmp_path / 'eval'}"]
        assert spatial_zero_shot(None, [*again, f"targets=[{server.target!r}]"]) == 0
    assert (tmp_path / "questions/t1_val_multi.json").stat().st_mtime_ns == built
    lines = (tmp_path / "eval/zero_shot.md").read_text().splitlines()
    assert (
        lines[0] == "| task | n | Hit@Mask | NOT_VISIBLE acc | mean L2 | Success@0.02 | Success@0.05 | Success@0.10 |"
    )
    cells = {line.split(" | ")[0].removeprefix("| "): line.removesuffix(" |").split(" | ")[1:] for line in lines[2:]}
    assert list(cells) == list(TASKS)
    assert cells["T1 two pictures"][:3] == ["16", "1.000", "1.000"]
    assert cells["T2A missing"][1:] == ["-", "1.000", "-", "-", "-", "-"]
    assert cells["T2B difference"][2] == "-"
    assert "\n".join(lines) in result.output
    with pytest.raises(ConfigError, match=r"questions was built with mode = 'anchor', not 'allpairs': choose another"):
        spatial_zero_shot(None, [*again, "mode=allpairs"])
    with pytest.raises(ConfigError, match=r"mode = 'some'; allowed|mode = 'some'"):
        spatial_zero_shot(None, [*again, "mode=some"])
    with pytest.raises(ConfigError, match="lacks questions, and data_root is not given"):
        spatial_zero_shot(None, [f"out_dir={tmp_path / 'nothing'}"])


def test_the_table_by_hand() -> None:
    numbers = {**named_metrics([]), "total": 3, "visible_gt": 3, "hit_at_mask": 2 / 3, "success_010": 1 / 3}
    assert table({"T1": numbers}).splitlines()[2] == "| T1 | 3 | 0.667 | - | - | 0.000 | 0.000 | 0.333 |"


@pytest.mark.parametrize(
    "flag", ["--model_name_or_path", "--chat_template", "--image_aspect_ratio", "--max_new_tokens"]
)
def test_flags_of_the_model_are_the_services_now(flag: str) -> None:
    result = CliRunner().invoke(app, ["spatial", "eval", flag, "8"])
    assert isinstance(result.exception, ConfigError)
    assert f"{flag} 8: the spatial service has the model now" in str(result.exception)
    assert "assay serve spatial" in str(result.exception)


def test_a_scorer_that_does_not_point_is_named(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Mute(PointingJudge):
        def _judge(self, sample: Sample) -> Scored:
            return Scored(1.0)

    with serve_in_background([Mute(name, knows) for name in ("correspondence", "difference")]) as server:
        code, found = run(built / "out/t1_val_multi.json", tmp_path / "mute.json", server)
    assert code == 1
    assert (found["answered"], found["metrics"]["total"]) == (0, 0)
    assert found["failures"] == ["the service does not say hit, parsed; allowed: a spatial service"]
    assert "failed: the service does not say hit, parsed" in capsys.readouterr().out


def test_workers_travel_to_other_processes() -> None:
    load = LoadAskWorker(ServiceAddress(("localhost:1",), 5.0))
    assert pickle.loads(pickle.dumps(load)) == load
    for function in (load_mark_worker, load_concat_worker):
        assert pickle.loads(pickle.dumps(function)) is function


def test_the_services_own_port_is_asked_unless_told_otherwise(tmp_path: Path) -> None:
    assert EvalSettings(data_json=tmp_path, output_json=tmp_path / "out.json").targets == ("localhost:50055",)


def test_an_empty_file_and_no_service(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]")
    assert spatial_eval(None, [f"data_json={tmp_path / 'none.json'}", f"output_json={tmp_path / 'out.json'}"]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["metrics"]["total"] == 0


def test_no_question_at_all_does_not_show_the_numbers_of_the_run_before(built: Path, tmp_path: Path) -> None:
    data, output = built / "out/t1_val_multi.json", tmp_path / "found.json"
    with served(knows) as (server, _):
        assert run(data, output, server)[1]["answered"] == 8
        code, found = run(data, output, server, "limit=0")
    assert code == 0
    assert (found["questions"], found["answered"], found["metrics"]["total"], found["results"]) == (0, 0, 0, [])
    assert summary(tmp_path / "found") == 0
    assert json.loads(output.read_text()) == found


GOOD = {
    "id": "T1_1",
    "image": ["a.png", "b_original.png"],
    "conversations": [{"from": "human", "value": "where?"}, {"from": "gpt", "value": "NOT_VISIBLE"}],
}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "x"}, "lacks image"),
        (None, "lacks image"),
        ({**GOOD, "conversations": [{"from": "human"}]}, "lacks image or the two turns"),
        ({**GOOD, "conversations": [{"value": 5}, {"value": "NOT_VISIBLE"}]}, "the question is 5"),
        ({**GOOD, "image": 5}, "image = 5; allowed"),
        ({**GOOD, "query_original": 5}, "'int'"),
        ({**GOOD, "image": ["a.png", 5]}, "image = ['a.png', 5]; allowed"),
        ({**GOOD, "image": ["a.png"]}, "image holds 1 pictures; allowed: two"),
        ({**GOOD, "image": "a.jpg"}, "query_original is missing"),
        ({**GOOD, "task": "t3"}, "task = 't3'; allowed: what begins with t1, t2a, t2b"),
        ({**GOOD, "conversations": [{"value": "<image> where?"}, {"value": "NOT_VISIBLE"}]}, "<image> stands in"),
        ({**GOOD, "conversations": [{"value": "where?"}, {"value": "there"}]}, "the answer is 'there'"),
    ],
)
def test_wrong_rows_are_named_and_the_others_read(tmp_path: Path, row: Any, message: str) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([GOOD, row, GOOD]))
    found = read_rows(tmp_path / "rows.json", tmp_path, compat=False)
    assert [question.number for question in found.questions] == [0, 2]
    (left_out,) = found.left_out
    assert left_out.startswith("row 1: ")
    assert message in left_out
    assert not read_rows(tmp_path / "rows.json", tmp_path, compat=False, limit=1).left_out


def test_what_is_no_list_of_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a dict; allowed: a list"):
        read_rows(tmp_path / "rows.json", tmp_path, compat=False)
    with pytest.raises(ConfigError, match=r"output_json = .*must end in \.json"):
        spatial_eval(None, [f"data_json={tmp_path / 'rows.json'}", "output_json=out"])
