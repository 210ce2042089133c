"""The service as configured: its YAML files and errors, models of real classes, and the commands of its page."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_verifiers
import yaml
from openai_server import OpenAiServer
from openai_server import running as running_openai
from roborefer_server import RoboReferServer
from tiny_verifiers import random_images

from assay import cli
from assay.errors import ConfigError
from assay.images import encode
from assay.outcomes import Scored
from assay.serving.scorer import Sample, Scorer
from assay.spatial_questions import read_spatial_questions
from assay.tasks import PointingTask, SpatialTask
from assay.testing import serve_in_background
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.transformers_writer import TransformersWriter
from assay.vision_language.vision_language_model import VisionLanguageModel
from assay.vision_language.writer import Written
from services.spatial.config import read_config
from services.spatial.pointing_scorer import PointingScorer
from services.spatial.service import build_scorers

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "services").glob("spatial*.yaml"))
MASK = np.zeros((64, 64, 3), np.uint8)
MASK[16:48, 16:48] = 255


def _config(folder: Path | str = "x", **changes: Any) -> dict[str, Any]:
    backend = {"name": "transformers", "model": str(folder), "device": "cpu"}
    return {"backend": backend, "pointing": {"family": "roborefer"}, **changes}


def _openai(**changes: Any) -> dict[str, Any]:
    return {"name": "openai", "base_url": "http://x/v1", "model": "y", "weights": "z", **changes}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    block = yaml.safe_load(path.read_text())
    assert set(block) == {"serve", "scorer"}
    assert (block["serve"]["grpc_port"], block["serve"]["http_port"]) == (50055, 8085)
    config = read_config(block["scorer"])
    assert config.judges == (path.stem != "spatial_roborefer")


ROBOREFER = {"name": "roborefer", "base_url": "http://x", "weights": "2B-SFT"}
POINTING_ONLY = ["correspondence"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scorers": []}, "scorers = []"),
        ({"scorers": ["relation", "relation"]}, "names one twice"),
        ({"scorers": ["orm"]}, "scorers.0 = 'orm'"),
        ({"pointing": None}, "pointing.family is missing; allowed: roborefer, qwen3_vl, qwen2_5_vl, glm"),
        ({"pointing": {"family": "qwen"}}, "pointing.family = 'qwen': Input should be 'roborefer'"),
        ({"pointing": {"family": "glm", "max_new_tokens": 0}}, "pointing.max_new_tokens = 0"),
        ({"scorers": ["relation"]}, "pointing does not go with scorers = ['relation']"),
        ({"scorers": POINTING_ONLY, "relation": {}}, "relation does not go with scorers = ['correspondence']"),
        ({"scorers": POINTING_ONLY, "answers": {}}, "answers does not go with scorers = ['correspondence']"),
        (
            {"relation": {"value": "agree"}},
            "relation.value = 'agree' needs relation.detector; allowed without it: 'vlm'",
        ),
        ({"relation": {"unsure_within": 0.6}}, "relation.unsure_within = 0.6"),
        ({"relation": {"on_abstain": "zero"}}, "relation.on_abstain = 'zero': Input should be 'vlm' or 'fail'"),
        (
            {"relation": {"detector": {"detector": {"backend": "mmdet", "model": "x"}}}},
            "detector.backend = 'mmdet' needs an environment of its own",
        ),
        (
            {"backend": {"name": "roborefer", "base_url": "http://x"}},
            "backend.weights = '': Value error, the server does not tell which weights it runs",
        ),
        ({"backend": ROBOREFER}, "scorers: relation does not go with backend.name = 'roborefer'"),
        (
            {"backend": ROBOREFER, "scorers": POINTING_ONLY, "pointing": {"family": "glm"}},
            "pointing.family = 'glm' does not go with backend.name = 'roborefer'; allowed: roborefer",
        ),
        (
            {
                "backend": ROBOREFER,
                "scorers": POINTING_ONLY,
                "pointing": {"family": "roborefer", "max_new_tokens": 9},
            },
            "pointing.max_new_tokens does not go with backend.name = 'roborefer'",
        ),
        (
            {"backend": _openai(), "pointing": {"family": "qwen2_5_vl"}},
            "pointing.family = 'qwen2_5_vl' does not go with backend.name = 'openai': it points in pixels",
        ),
        (
            {"backend": _openai(top_logprobs=5), "scorers": POINTING_ONLY},
            "backend.top_logprobs does not go without the scorer relation",
        ),
        ({"backend": _openai(extra_body={"logprobs": 1})}, "logprobs is set by the service itself"),
    ],
)
def test_configuration_errors_name_field_value_and_what_is_allowed(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config({**_config(), **change})
    assert said in str(caught.value)


def test_a_family_that_points_in_pixels_needs_a_model_that_tells_them(judge_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"pointing\.family = 'qwen2_5_vl' points in pixels .* does not tell"):
        build_scorers(_config(judge_folder, scorers=["difference"], pointing={"family": "qwen2_5_vl"}))


def _samples() -> list[Sample]:
    views = [random_images(2, seed=seed) for seed in range(3)]
    return [Sample(str(n), (*pair, MASK), "", PointingTask("Where?" * (n + 1))) for n, pair in enumerate(views)]


def _said(scorer: Scorer) -> list[str]:
    outcomes = scorer.score(_samples())
    assert all(isinstance(one, Scored) and one.evidence is not None for one in outcomes), outcomes
    return [one.evidence.judge_text for one in outcomes]  # type: ignore[union-attr]


def test_what_the_model_writes_is_what_is_judged_here_and_behind_a_server(writer_folder: Path) -> None:
    """Random weights point nowhere: their texts are evidence, and no hit."""
    vlm = VisionLanguageModel.load(str(writer_folder), affirmation="yes", device="cpu")
    inquiries = [Inquiry(one.images[:2], (f"<image>\n<image>\n{one.task.question}",)) for one in _samples()]  # type: ignore[union-attr]
    expected = TransformersWriter(vlm).write(inquiries, 8)
    pointing = {"family": "roborefer", "max_new_tokens": 8}
    here = build_scorers(_config(writer_folder, scorers=["difference"], pointing=pointing))[0]
    assert _said(here) == expected
    assert here.info.deterministic
    with running_openai(OpenAiServer(vlm)) as server:
        backend = _openai(base_url=server.base_url, model="tiny")
        there = build_scorers(_config(scorers=["difference"], pointing=pointing, backend=backend))[0]
        assert _said(there) == expected
    assert not there.info.deterministic
    assert [one.value for one in here.score(_samples())] == [0.0] * 3  # type: ignore[union-attr]


def test_relation_is_asked_behind_a_server_too(judge_folder: Path) -> None:
    vlm = VisionLanguageModel.load(str(judge_folder), affirmation="yes", device="cpu")
    sample = Sample("x", (random_images(1)[0],), "", SpatialTask("apple", "near", "cup"))
    with running_openai(OpenAiServer(vlm)) as server:
        server.list_at_most = 10_000
        there = build_scorers(_config(backend=_openai(base_url=server.base_url, model="tiny")))
        here = build_scorers(_config(judge_folder))
        one, other = (scorers[0].score([sample])[0] for scorers in (here, there))
    assert isinstance(one, Scored)
    assert isinstance(other, Scored)
    assert other.value == pytest.approx(one.value, abs=1e-5)
    assert [scorer.info.name for scorer in there] == ["relation", "correspondence", "difference"]


@pytest.mark.parametrize(
    ("name", "views", "question"),
    [("correspondence", 2, ""), ("difference", 2, ""), ("correspondence", 1, "Where is it?")],
)
def test_what_is_asked_is_what_is_trained(
    tmp_path: Path, writer_folder: Path, name: Any, views: int, question: str
) -> None:
    """The text up to the answer, for a row of the x3 tasks, in which no marks stand."""
    from pipelines.spatial_tasks.building.prompts import CORRESPONDENCE, DIFFERENCE
    from trainer.vlm.conversations import read_conversations

    vlm = VisionLanguageModel.load(str(writer_folder), affirmation="yes", device="cpu")
    scorer = PointingScorer(name, TransformersWriter(vlm), "roborefer", 8, read_spatial_questions())
    (tmp_path / "view.png").write_bytes(encode(random_images(1)[0], "PNG"))
    said = question or {"correspondence": CORRESPONDENCE, "difference": DIFFERENCE}[name]
    turns = [{"from": "human", "value": said}, {"from": "gpt", "value": "NOT_VISIBLE"}]
    row = {"id": "x", "image": ["view.png"] * views, "conversations": turns}
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    trained = read_conversations(tmp_path / "rows.json")[0].messages(1)
    images = random_images(1, size=(64, 64 * (3 - views))) * views
    case = scorer._admit(Sample("x", (*images, MASK), "", PointingTask(question)))
    assert case.inquiry.messages([{"type": "image"}] * views, "yes", 1) == trained  # type: ignore[union-attr]


class _SaysPixels(TransformersWriter):
    """Says what it is told, about images as its own processor takes them in."""

    text = ""

    def write(self, inquiries: Any, max_new_tokens: int) -> list[Written]:
        return [self.text for _ in inquiries]


def test_pixels_of_the_processor_become_places_of_the_query() -> None:
    """Of Qwen2.5-VL's real processor, which makes other sizes of views of other sizes."""
    writer = _SaysPixels(tiny_verifiers.make_qwen2_5_vl())
    scorer = PointingScorer("correspondence", writer, "qwen2_5_vl", 8, read_spatial_questions())
    reference, query = random_images(1)[0], random_images(1, size=(40, 120))[0]
    width, height = writer.input_size(query) or (0, 0)
    assert (width, height) != writer.input_size(reference)
    writer.text = json.dumps([{"point_2d": [width / 2, height / 4]}])
    mask = np.zeros((40, 120, 3), np.uint8)
    mask[10, 60] = 255
    outcome = scorer.score([Sample("x", (reference, query, mask), "", PointingTask())])[0]
    assert isinstance(outcome, Scored)
    assert (outcome.components["x"], outcome.components["y"], outcome.value) == (0.5, 0.25, 1.0)


def test_the_mask_and_the_relation_are_flags_of_the_score_command(
    roborefer: RoboReferServer,
    judge_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, image in (("a.png", random_images(1)[0]), ("b.png", random_images(1)[0]), ("m.png", MASK)):
        (tmp_path / name).write_bytes(encode(image, "PNG"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["assay", "score", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    pointing = {"scorers": ["correspondence", "difference"], "pointing": {"family": "roborefer"}}
    scorers = build_scorers({**pointing, "backend": ROBOREFER | {"base_url": roborefer.base_url}})
    with serve_in_background(
        [*build_scorers(_config(judge_folder, scorers=["relation"], pointing=None)), *scorers]
    ) as server:
        target = ("--target", server.target)
        assert run("a.png", "b.png", "--mask", "m.png", "--question", "Where now?", *target) == 0
        shown = capsys.readouterr().out
        assert "a.png b.png m.png: correspondence = 1.0000" in shown
        assert "  point: (32.0, 32.0)" in shown
        assert roborefer.requests[-1]["text"] == "Where now?"
        assert run("a.png", "b.png", "--mask", "m.png", "--scorer", "difference", "--json", *target) == 0
        (entry,) = json.loads(capsys.readouterr().out)
        assert (entry["images"], entry["score"]["value"]) == (["a.png", "b.png", "m.png"], 1.0)
        assert run("a.png", "b.png", "--relation", "apple", "left of", "cup", *target) == 0
        assert re.search(r"a\.png: relation = 0\.\d+\n(.*\n)*b\.png: relation = 0\.\d+", capsys.readouterr().out)
        assert run("a.png", "--relation", "apple", "beside", "cup", *target) == 1
        assert "task.relation is 'beside'; allowed: left of, right of" in capsys.readouterr().out
        for flags, said in (
            (("--relation", "a", "near", "b", "--mask", "m.png"), "--relation and --mask ask for different things"),
            (("--class", "apple", "--question", "Is it?"), "--question does not go with --class"),
            (("--mask", "m.png", "--count", "3"), "--count and --color say something of a class"),
        ):
            assert run("a.png", *flags, *target) == 2
            assert said in capsys.readouterr().err


def test_the_service_starts_and_scores_as_its_page_says(judge_folder: Path, tmp_path: Path) -> None:
    """The commands of README.md, with another model, which is all that users change; and the same over HTTP."""
    page = (ROOT / "services/spatial/README.md").read_text()
    served = re.findall(r"^    assay serve spatial(?: --config (\S+))? ", page, re.MULTILINE)
    assert served == ["", "configs/services/spatial_full.yaml", "configs/services/spatial_roborefer.yaml"]
    commands = re.findall(r"^    (assay score .*)$", page, re.MULTILINE)
    assert len(commands) == 3
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for name in ("marked", "query", "original", "edited"):
        (tmp_path / f"{name}.png").write_bytes(encode(random_images(1)[0], "PNG"))
    (tmp_path / "mask.png").write_bytes(encode(MASK, "PNG"))
    ready = tmp_path / "ready.json"
    flags = [
        "serve.grpc_port=0",
        "serve.http_port=0",
        f"serve.ready_file={ready}",
        f"scorer.backend.model={judge_folder}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "assay.cli"]
    service = subprocess.Popen([*command, "serve", "spatial", *flags], cwd=ROOT, env=environment)
    try:
        deadline = time.monotonic() + 240
        while not ready.exists():
            assert service.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        places = json.loads(ready.read_text())
        shown = ""
        for line in commands:
            words = shlex.split(line.replace("localhost:50055", places["grpc"]))[1:]
            done = subprocess.run([*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr + done.stdout
            shown += done.stdout
        assert re.search(r"three_apples\.png: relation = 0\.0+", shown)
        assert "detector no" in shown  # of one that is not there
        assert "marked.png query.png mask.png: correspondence = 0.0000" in shown
        assert "original.png edited.png mask.png: difference = 0.0000" in shown
        _check_python(page, places["grpc"])
        _check_http(places["http"])
    finally:
        service.terminate()
        assert service.wait(timeout=60) == 0


def _check_python(page: str, address: str) -> None:
    """The page's example, as it stands."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert "localhost:50055" in code
    picture, marked, query = random_images(3)
    names: dict[str, Any] = {"picture": picture, "marked": marked, "query": query, "mask": MASK}
    exec(code.replace("localhost:50055", address), names)
    assert isinstance(names["relation"], Scored)
    assert names["relation"].value == 0.0  # noise has neither of the two objects
    assert 0.0 < names["relation"].components["vlm_p"] < 1.0
    assert isinstance(names["correspondence"], Scored)
    assert names["correspondence"].evidence.points == ()


def _check_http(address: str) -> None:
    """A pointing task in JSON."""
    import base64

    images = [
        {"format": "png", "data": base64.b64encode(encode(image, "PNG")).decode()}
        for image in (*random_images(2), MASK)
    ]
    items = [{"id": "x", "images": images, "task": {"type": "pointing", "question": "Where?"}}]
    body = json.dumps({"scorer": "correspondence", "items": items, "evidence": True}).encode()
    request = urllib.request.Request(f"http://{address}/v1/score", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        (result,) = json.loads(response.read())["results"]
    assert result["score"]["components"] == {"hit": 0.0, "parsed": 0.0, "visible_true": 1.0}
    assert "in pixels of the query, 64 x 64" in result["score"]["evidence"]["reason"]
