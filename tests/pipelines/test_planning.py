"""`assay plan`: questions to a model over HTTP or in this process, its texts read, and drawn by `assay generate`."""

import json
import pickle
import shlex
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from brightness_judge import LEFT, Brightness, brightness
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_klein import save_tiny_klein
from typer.testing import CliRunner

from assay import cli
from assay.errors import ConfigError
from assay.testing import serve_in_background
from miniature.vlm import build_vlm, save_vlm
from pipelines.generate.command import generate
from pipelines.planning.command import plan
from pipelines.planning.instructions import read_instructions
from pipelines.planning.planner import LoadPlanner, read_plan_template
from pipelines.planning.question_file import read_questions
from pipelines.planning.settings import PlanningSettings

TEXTS = {
    "Where is the cup?": '<think>["no"]</think>\n```json\n["Look from above.", "Turn left."]\n```',
    "How many kites?": "1. Move closer.\n2. Remove the cup.\n",
    "Is it red?": "[]",
    "What is it?": "I cannot say.",
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('["a", "b", "c"]', ["a", "b"]),
        ('Sure: ["a b"] and ["c"]', ["a b"]),
        ('[1, 2] then ["a"]', ["a"]),
        ('[["a"], ["b"]]', ["a"]),  # the first list of strings
        ('["a", "b', None),  # cut short
        ("- first\n* second", ["first", "second"]),
        ("1) first\n 2) second\n3) third", ["first", "second"]),
        ("[]", []),
        ('[" ", "x "]', ["x"]),
        ('["old"]</think> 1. new', ["new"]),
        ('Use [] if none helps. I suggest:\n["Look left."]', ["Look left."]),
        ("[] would be wrong:\n1. Look left.", ["Look left."]),
        ('<think>["a"] and on', None),
        ("", None),
        ("No view would help.", None),
    ],
)
def test_texts_and_what_is_read_from_them(text: str, found: list[str] | None) -> None:
    assert read_instructions(text, most=2) == found


@given(st.text(max_size=300) | st.text(alphabet='[]{}",\\n 1.-ab</think>', max_size=300))
def test_any_text_is_read(text: str) -> None:
    found = read_instructions(text, most=3)
    assert found is None or (len(found) <= 3 and all(one == one.strip() and one for one in found))


def test_deep_and_long_texts_are_read_in_time() -> None:
    began = time.monotonic()
    assert read_instructions("[" * 200_000, most=3) is None
    assert read_instructions('["a",' * 50_000, most=3) is None
    assert read_instructions("1. " + " " * 200_000, most=3) is None
    assert time.monotonic() - began < 10


class ChatServer:
    """An OpenAI-compatible server that says what `TEXTS` has for the question asked, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.images = 0
        self.refuses = False
        app = FastAPI()
        app.post("/v1/chat/completions")(self._complete)
        self._runner = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))

    async def _complete(self, request: Request) -> Response:
        content = (await request.json())["messages"][0]["content"]
        text = " ".join(part["text"] for part in content if part["type"] == "text")
        question = next((one for one in TEXTS if one in text), "")
        if question:
            self.asked.append(question)
            self.images += sum(part["type"] == "image_url" for part in content)
        if self.refuses and question == "Is it red?":
            return Response("too hard", status_code=400)
        said = {"message": {"role": "assistant", "content": TEXTS.get(question, "yes")}, "index": 0}
        return JSONResponse({"model": "m", "choices": [said]})

    def __enter__(self) -> "ChatServer":
        self._thread = threading.Thread(target=self._runner.run, daemon=True)
        self._thread.start()
        while not self._runner.started:
            time.sleep(0.01)
        port = self._runner.servers[0].sockets[0].getsockname()[1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.should_exit = True
        self._thread.join(timeout=10)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as running:
        yield running


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A folder `rooms` of four questions, the first of two images."""
    folder = tmp_path / "rooms"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number, question in enumerate(TEXTS):
        paths = [f"images/{number}{letter}.png" for letter in ("ab" if number == 0 else "a")]
        for path in paths:
            pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / path)
        lines.append({"id": number, "question": question, "image_paths": paths})
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def settings(questions: Path, backend: dict[str, Any], out: str = "planned") -> list[str]:
    block = [f"backend.{field}={value}" for field, value in backend.items()]
    return [f"questions={questions}", f"output_root={questions.parent / out}", *block, "retries=0"]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_plans_are_read_and_drawn(server: ChatServer, questions: Path, tmp_path: Path) -> None:
    openai = {"name": "openai", "base_url": server.base_url, "weights": "a", "model": "org/Planner-4B"}
    assert plan(None, settings(questions, openai)) == 0
    folder = tmp_path / "planned/Planner-4B"
    assert [row["instructions"] for row in rows(folder)] == [
        ["Look from above.", "Turn left."],
        ["Move closer.", "Remove the cup."],
        [],
        [],
    ]
    assert [row["parsed"] for row in rows(folder)] == [True, True, True, False]
    assert [(row["id"], row["dataset"]) for row in rows(folder)] == [(n, "rooms") for n in range(4)]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["questions"] == {"planned": 4, "done": 4}
    assert summary["without a list in the text"] == 1
    assert summary["instructions"] == {"0": 2, "2": 2}
    assert (sorted(server.asked), server.images) == (sorted(TEXTS), 5)
    assert plan(None, settings(questions, openai)) == 0  # nothing is asked again
    assert len(server.asked) == 4
    flags = [f"predicted_instructions_root={tmp_path}/planned", f"data_root={questions}", "num_inference_steps=1"]
    checkpoint = save_tiny_klein(tmp_path / "flux2-klein-4B")
    flags += ["planning_model=Planner-4B", f"flux_ckpt={checkpoint}", f"output_root={tmp_path}/drawn"]
    assert generate(None, flags) == 0
    drawn = sorted(
        path.relative_to(tmp_path / "drawn/rooms/Planner-4B/flux2-klein-4B").as_posix()
        for path in (tmp_path / "drawn").rglob("img_*.png")
    )
    assert drawn == ["0/img_0.png", "0/img_1.png", "1/img_0.png", "1/img_1.png"]


def tell_relation(questions: Path, line: int, relation: Any) -> None:
    file = questions / "questions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[line]["relation"] = relation
    file.write_text("".join(json.dumps(values) + "\n" for values in lines))


def test_a_questions_relation_is_judged_in_what_is_drawn_for_it(
    server: ChatServer, questions: Path, tmp_path: Path, tiny_klein: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    openai = {"name": "openai", "base_url": server.base_url, "weights": "a", "model": "m"}
    assert plan(None, settings(questions, openai)) == 0
    server.asked.clear()
    tell_relation(questions, 0, LEFT)
    tell_relation(questions, 1, None)
    assert plan(None, settings(questions, openai)) == 0
    assert server.asked == ["Where is the cup?"], "the others are as they were"
    assert [row.get("relation") for row in rows(tmp_path / "planned/m")] == [LEFT, None, None, None]
    judge = Brightness()
    with serve_in_background([judge]) as service:
        flags = [f"predicted_instructions_root={tmp_path}/planned", f"data_root={questions}", "num_inference_steps=1"]
        flags += ["planning_model=m", f"flux_ckpt={tiny_klein}", f"output_root={tmp_path}/drawn"]
        assert generate(None, [*flags, "score=spatial", f"targets=[{service.target!r}]"]) == 0
    folder = tmp_path / "drawn/rooms/m" / tiny_klein.name
    found = json.loads((folder / "spatial_scores.json").read_text())
    assert (found["pairs"], found["samples"]["with_relation"], found["samples"]["without_relation"]) == (2, 1, 3)
    assert found["before"] == pytest.approx(brightness(questions / "images/0a.png"), abs=1e-6)
    after = [brightness(folder / f"0/img_{k}.png") for k in (0, 1)]
    assert found["after"] == pytest.approx(np.mean(after), abs=1e-6)
    assert len(judge.asked) == 3, "the first reference, and two images"
    assert "over 2 images; 3 samples without a relation" in capsys.readouterr().out


def test_another_folder_of_questions_takes_nothing_from_the_first(
    server: ChatServer, questions: Path, tmp_path: Path
) -> None:
    openai = {"name": "openai", "base_url": server.base_url, "weights": "a", "model": "m"}
    assert plan(None, settings(questions, openai)) == 0
    others = tmp_path / "halls"
    shutil.copytree(questions, others)
    assert plan(None, settings(others, openai)) == 0
    found = [(row["dataset"], row["id"]) for row in rows(tmp_path / "planned/m")]
    assert sorted(found) == [(name, number) for name in ("halls", "rooms") for number in range(4)]


def test_what_fails_fails_alone_and_is_asked_again(server: ChatServer, questions: Path, tmp_path: Path) -> None:
    openai = {"name": "openai", "base_url": server.base_url, "weights": "a", "model": "m", "max_attempts": 1}
    (questions / "images/3a.png").unlink()
    server.refuses = True
    assert plan(None, settings(questions, openai)) == 1
    assert [row["id"] for row in rows(tmp_path / "planned/m")] == [0, 1]
    server.refuses = False
    server.asked.clear()
    assert plan(None, settings(questions, openai)) == 1
    assert server.asked == ["Is it red?"]
    assert [row["id"] for row in rows(tmp_path / "planned/m")] == [0, 1, 2]


def test_a_model_in_this_process_plans(questions: Path, tmp_path: Path) -> None:
    """With random weights: what it writes is no plan, and is kept."""
    model = save_vlm(
        tmp_path / "vlm", *build_vlm(TEXTS, seed=2, width=64, text_layers=1, vision_width=64, vision_layers=1)
    )
    flags = settings(questions, {"name": "transformers", "model": str(model)})
    config = tmp_path / "config.yaml"
    config.write_text("max_new_tokens: 6\nname: tiny\n")
    result = CliRunner().invoke(cli.app, ["plan", "--config", str(config), *flags])
    assert result.exit_code == 0, result.output
    assert "assay generate --planning_model tiny" in result.output
    written = rows(tmp_path / "planned/tiny")
    assert [row["parsed"] for row in written] == [False] * 4
    assert any(row["text"] for row in written)


def test_the_worker_travels_to_other_processes() -> None:
    """In a process of Ray's, say."""
    values = {"questions": "questions", "backend": {"name": "transformers", "model": "m"}}
    load = LoadPlanner(PlanningSettings.model_validate(values).backend, read_plan_template(None))
    assert pickle.loads(pickle.dumps(load)) == load


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"questions.jsonl:1: not valid JSON"),
        ('{"id": 1, "image_paths": ["a.png"]}', r":1: question is missing"),
        ('{"id": 1, "question": " ", "image_paths": ["a.png"]}', r":1: question = ' '; allowed: a string"),
        ('{"id": 1, "question": "x", "image_paths": []}', r":1: image_paths = \[\]; allowed: at least one"),
        ('{"id": 1, "question": "x", "image_paths": [3]}', r":1: image_paths\[0\] = 3"),
        ('{"id": "a/b", "question": "x", "image_paths": ["a.png"]}', r":1: id = 'a/b' cannot name a folder"),
        (
            '{"id": 1, "question": "x", "image_paths": ["a.png"], "relation": "left of"}',
            r":1: relation = 'left of'; allowed: an object with subject, relation, reference, or null",
        ),
        (
            '{"id": 1, "question": "x", "image_paths": ["a.png"], "relation": []}',
            r":1: relation = \[\]; allowed: an object with subject, relation, reference, or null",
        ),
        (
            '{"id": 1, "question": "x", "image_paths": ["a.png"], "relation": {"subject": "cup", "relation": "near"}}',
            r":1: relation.reference = None; allowed: a string that is not empty",
        ),
        ("", "has no line"),
    ],
)
def test_broken_questions_are_named_by_line_and_field(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "questions.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=said):
        read_questions(tmp_path)


def test_a_template_without_its_places_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "template.txt"
    for text, said in (
        ("{question} {prompt}", r"template.*\{prompt\}"),
        ("{numbers}", r"\{question\} is missing"),
        ("<image> {question}", r"<image> stands in it 1 times; allowed: 0"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_plan_template(path)
    assert "{question}" in read_plan_template(None).text


def test_the_command_of_the_page_runs(
    server: ChatServer, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs/planning.md").read_text()
    (command,) = [line.strip() for line in page.splitlines() if "localhost:8000" in line]
    (tmp_path / "datasets/evaluation").mkdir(parents=True)
    questions.rename(tmp_path / "datasets/evaluation/mmsi")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.replace("http://localhost:8000/v1", server.base_url))
    assert words[0] == ".venv/bin/assay"
    result = CliRunner().invoke(cli.app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert [row["dataset"] for row in rows(tmp_path / "predicted_instructions/Qwen3-VL-4B-Instruct")] == ["mmsi"] * 4
