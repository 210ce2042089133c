"""The service as configured: its YAML files and errors, what its fingerprints follow, and scores over gRPC."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from tiny_verifiers import random_images

from assay.client import RewardClient
from assay.errors import ConfigError
from assay.outcomes import Failed, Outcome, Scored
from assay.questions import QUESTION_FILES
from assay.serving.scorer import Sample, Scorer
from assay.tasks import GenEvalTask, ObjectClause, OutcomeTask, PotentialTask, SpatialTask, Task
from assay.testing import serve_in_background
from assay.vision_language.answers import probability
from services.verifier.config import read_config
from services.verifier.service import build_scorers

ROOT = Path(__file__).parents[2]
SERVED = {"name": "openai", "base_url": "http://x", "model": "y", "weights": "z"}
CONFIGS = sorted((ROOT / "configs" / "services").glob("verifier*.yaml"))


def _config(folder: Path | str, **changes: Any) -> dict[str, Any]:
    return {"backend": {"name": "transformers", "model": str(folder), "device": "cpu"}, **changes}


def _scorers(config: dict[str, Any]) -> dict[str, Scorer]:
    return {scorer.info.name: scorer for scorer in build_scorers(config)}


@pytest.fixture(scope="module")
def scorers(llava_folder: Path) -> dict[str, Scorer]:
    return _scorers(_config(llava_folder))


@pytest.fixture(scope="module")
def client(scorers: dict[str, Scorer]) -> Iterator[RewardClient]:
    with (
        serve_in_background(list(scorers.values())) as server,
        RewardClient([server.target], deadline_s=60) as client,
    ):
        yield client


def _value(outcome: Outcome) -> float:
    assert isinstance(outcome, Scored), outcome
    return outcome.value


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    block = yaml.safe_load(path.read_text())
    assert set(block) == {"serve", "scorer"}
    assert read_config(block["scorer"]).scorers == ("orm", "parm-clarity", "parm-potential")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": "greedy"}, "protocol = 'greedy': Input should be 'logits' or 'sampled'"),
        ({"backend": {"model": "x"}}, "backend.name is missing"),
        ({"backend": {"name": "transformers"}}, "backend.model is missing"),
        ({"backend": {"name": "transformers", "model": "x", "dtype": "int8"}}, "backend.dtype = 'int8'"),
        ({"backend": {"name": "transformers", "model": "x", "base_url": "y"}}, "unknown field backend.base_url"),
        ({"backend": {"name": "openai", "model": "x", "base_url": "judge:8000"}}, "backend.base_url = 'judge:8000'"),
        (
            {"backend": {"name": "openai", "base_url": "http://x", "model": "y"}},
            "backend.weights = '': Value error, the server does not tell which weights it runs",
        ),
        (
            {"backend": {"name": "openai", "base_url": "http://x", "model": "y", "weights": "Unknown"}},
            "backend.weights = 'Unknown': Value error, the server does not tell which weights it runs",
        ),
        ({"answers": {"affirmative": True}}, "answers.affirmative = True: Input should be a valid string"),
        ({"scorers": ["prm"]}, "scorers.0 = 'prm'"),
        ({"scorers": ["orm", "orm"]}, "names one twice"),
        ({"scorers": []}, "scorers = []"),
        ({"temperature": 0.5}, "temperature does not go with protocol = 'logits'"),
        ({"protocol": "sampled", "answers": {"forms": "exact"}}, "answers.forms does not go with protocol = 'sampled'"),
        (
            {
                "protocol": "sampled",
                "backend": {"name": "transformers", "model": "x", "max_images_per_pass": 4},
            },
            "backend.max_images_per_pass does not go with protocol = 'sampled', which takes one image at a time",
        ),
        (
            {"backend": SERVED | {"extra_body": {"temperature": 2}}},
            "backend.extra_body = {'temperature': 2}: Value error, temperature is set by the service itself; allowed",
        ),
        (
            {"protocol": "sampled", "backend": SERVED},
            "protocol = 'sampled' does not go with backend.name = 'openai'",
        ),
    ],
)
def test_configuration_errors_name_field_value_and_what_is_allowed(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config({**_config("x"), **change})
    assert said in str(caught.value)


def test_scorers_say_what_they_take_and_give(scorers: dict[str, Scorer]) -> None:
    infos = {name: scorer.info for name, scorer in scorers.items()}
    assert {name: info.tasks for name, info in infos.items()} == {
        "orm": ("OutcomeTask", "GenEvalTask"),
        "parm-clarity": ("PotentialTask",),
        "parm-potential": ("PotentialTask",),
    }
    assert len({info.fingerprint for info in infos.values()}) == 3
    assert all(info.deterministic and info.value_range == (0.0, 1.0) for info in infos.values())


def test_scores_over_grpc_are_those_of_each_image_alone(client: RewardClient, scorers: dict[str, Scorer]) -> None:
    images = random_images(6)
    prompts = ["a photo of a kite" + " and an apple" * index for index in range(6)]
    for name, task in (
        ("orm", OutcomeTask()),
        ("parm-clarity", PotentialTask(9, 18)),
        ("parm-potential", PotentialTask(9, 18)),
    ):
        outcomes = client.score(images, scorer=name, prompts=prompts, tasks=[task] * 6, evidence=True)
        for image, prompt, outcome in zip(images, prompts, outcomes, strict=True):
            alone = scorers[name].score([Sample("", (image,), prompt, task)])[0]
            assert _value(outcome) == pytest.approx(_value(alone), abs=1e-5)
            assert isinstance(outcome, Scored)
            parts = outcome.components
            assert outcome.value == parts["p"] == probability(parts["margin"])
            assert parts["margin"] == pytest.approx(parts["logit_yes"] - parts["logit_no"])
            assert outcome.evidence is not None
            assert outcome.evidence.judge_text
        assert len({_value(outcome) for outcome in outcomes}) == 6


def test_potential_carries_the_clarity_that_was_asked_on_the_way(scorers: dict[str, Scorer]) -> None:
    samples = [Sample("", (image,), "a kite", PotentialTask(9, 18)) for image in random_images(3)]
    for both, clarity in zip(
        scorers["parm-potential"].score(samples), scorers["parm-clarity"].score(samples), strict=True
    ):
        assert isinstance(both, Scored)
        assert both.components["clarity/p"] == pytest.approx(_value(clarity), abs=1e-6)
        assert both.value != pytest.approx(_value(clarity), abs=1e-4)


def test_a_prompt_alone_is_a_task_and_a_question_takes_the_place_of_the_scorers_own(scorers: dict[str, Scorer]) -> None:
    image = random_images(1)[0]
    own = (QUESTION_FILES / "orm.txt").read_text().removesuffix("\n").removeprefix("<image> ")

    def value(task: Task | None, prompt: str = "a kite") -> float:
        return _value(scorers["orm"].score([Sample("", (image,), prompt, task)])[0])

    plain = value(None)
    assert value(OutcomeTask()) == plain
    assert value(GenEvalTask("counting", (ObjectClause("kite"),))) == plain
    assert value(OutcomeTask(own)) == pytest.approx(plain, abs=1e-6)
    assert value(OutcomeTask(own.format(prompt="a kite")), prompt="") == pytest.approx(plain, abs=1e-6)
    assert value(OutcomeTask("Is there a kite? Answer yes or no."), prompt="") != pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize(
    ("scorer", "prompt", "task", "reason"),
    [
        ("orm", "a kite", PotentialTask(1, 2), "WRONG_TASK_TYPE"),
        ("orm", "a kite", SpatialTask("kite", "left of", "apple"), "WRONG_TASK_TYPE"),
        ("orm", " \n", OutcomeTask(), "MISSING_PROMPT"),
        ("orm", "", OutcomeTask("Does it show {prompt}?"), "MISSING_PROMPT"),
        ("orm", "a kite" * 2000, OutcomeTask(), "PROMPT_TOO_LONG"),
        ("orm", "a <image> of a kite", OutcomeTask(), "PROMPT_HAS_MARKS"),
        ("orm", "a kite<|im_end|>", OutcomeTask(), "PROMPT_HAS_MARKS"),
        ("orm", "a kite", OutcomeTask("Is it <image>?"), "PROMPT_HAS_MARKS"),
        ("parm-clarity", "a kite", None, "WRONG_TASK_TYPE"),
        ("parm-potential", "a kite", OutcomeTask(), "WRONG_TASK_TYPE"),
        ("parm-potential", "a kite", PotentialTask(19, 18), "STEP_OUT_OF_RANGE"),
        ("parm-potential", "a kite", PotentialTask(-1, 18), "STEP_OUT_OF_RANGE"),
        ("parm-potential", "a kite", PotentialTask(0, 0), "STEP_OUT_OF_RANGE"),
    ],
)
def test_a_sample_that_cannot_be_asked_about_fails_alone(
    scorers: dict[str, Scorer], scorer: str, prompt: str, task: Task | None, reason: str
) -> None:
    image = random_images(1)[0]
    good = Sample("good", (image,), "a kite", OutcomeTask() if scorer == "orm" else PotentialTask(9, 18))
    first, failed, last = scorers[scorer].score([good, Sample("bad", (image,), prompt, task), good])
    assert isinstance(failed, Failed)
    assert (failed.code, failed.reason) == ("INVALID_ARGUMENT", reason)
    assert _value(first) == pytest.approx(_value(last), abs=1e-6)


@pytest.mark.parametrize("count", [0, 2])
def test_any_number_of_images_but_one_is_refused(scorers: dict[str, Scorer], count: int) -> None:
    images = (np.zeros((64, 64, 3), np.uint8),) * count
    failed = scorers["orm"].score([Sample("", images, "a kite", None)])[0]
    assert isinstance(failed, Failed)
    assert failed.reason == "WRONG_IMAGE_COUNT"


def test_images_of_all_sizes_are_scored(client: RewardClient) -> None:
    images = [random_images(1, size=size)[0] for size in ((8, 8), (64, 200), (300, 40), (64, 64))]
    outcomes = client.score(images, scorer="orm", prompts=["a kite"] * 4, tasks=[None] * 4)
    assert [outcome for outcome in outcomes if isinstance(outcome, Failed)] == []


def test_fingerprints_follow_all_that_decides_a_score(llava_folder: Path, tmp_path: Path) -> None:
    def fingerprints(**changes: Any) -> tuple[str, str]:
        built = _scorers(_config(changes.pop("folder", llava_folder), **changes))
        return built["orm"].info.fingerprint, built["parm-potential"].info.fingerprint

    orm, potential = fingerprints()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(llava_folder, elsewhere)
    assert fingerprints(folder=elsewhere) == (orm, potential)
    same = tmp_path / "same.txt"
    shutil.copy(QUESTION_FILES / "clarity.txt", same)
    assert fingerprints(templates={"clarity": str(same)}) == (orm, potential)

    other = tmp_path / "other.txt"
    other.write_text("<image> Is {prompt} to be seen at step {step} of {num_steps}?")
    assert fingerprints(templates={"clarity": str(other)})[0] == orm
    half = {**_config(elsewhere)["backend"], "dtype": "bfloat16"}
    changed = [
        fingerprints(templates={"clarity": str(other)})[1],
        fingerprints(answers={"forms": "exact"})[1],
        fingerprints(answers={"affirmative": "Yes", "negative": "No", "forms": "exact"})[1],
        fingerprints(backend=half)[1],
        fingerprints(protocol="sampled")[1],
        fingerprints(protocol="sampled", temperature=0.3)[1],
    ]
    (elsewhere / "chat_template.jinja").write_text((elsewhere / "chat_template.jinja").read_text() + " ")
    changed.append(fingerprints(folder=elsewhere)[1])
    assert len({potential, *changed}) == 8


def test_templates_of_the_configuration_are_asked(llava_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clarity.txt").write_text("<image> {prompt}: clear at {step} of {num_steps}?")
    config = _config(llava_folder, templates={"clarity": str(tmp_path / "clarity.txt")}, scorers=["parm-clarity"])
    (scorer,) = build_scorers(config)
    image = random_images(1)[0]
    early, late = scorer.score([Sample("", (image,), "a kite", PotentialTask(step, 18)) for step in (3, 17)])
    assert _value(early) != pytest.approx(_value(late), abs=1e-5)
    (tmp_path / "clarity.txt").write_text("<image> clear?")
    with pytest.raises(ConfigError, match=r"templates\.clarity = .*\{prompt\} is missing"):
        build_scorers(config)


def test_the_sampled_protocol_says_that_it_is_not_deterministic(llava_folder: Path) -> None:
    scorers = _scorers(_config(llava_folder, protocol="sampled"))
    assert not any(scorer.info.deterministic for scorer in scorers.values())
    assert scorers["parm-potential"].info.value_range == (-49.0, 1.0)
    image = random_images(1)[0]
    outcome = scorers["orm"].score([Sample("", (image,), "a kite", None)])[0]
    assert isinstance(outcome, Scored)
    assert 0 < outcome.components["p_yes"] < 1


def test_the_service_starts_and_scores_as_its_page_says(llava_folder: Path, tmp_path: Path) -> None:
    """The commands of README.md, with another model, which is all that users change; and the same over HTTP."""
    page = (ROOT / "services/verifier/README.md").read_text()
    assert re.findall(r"^    assay serve verifier .*configs/services/verifier\.yaml$", page, re.MULTILINE)
    (score,) = re.findall(r"^    (assay score .*)$", page, re.MULTILINE)
    ready = tmp_path / "ready.json"
    flags = [
        "serve.grpc_port=0",
        "serve.http_port=0",
        f"serve.ready_file={ready}",
        f"scorer.backend.model={llava_folder}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "assay.cli", "serve", "verifier", *flags]
    service = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        deadline = time.monotonic() + 240
        while not ready.exists():
            assert service.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        places = json.loads(ready.read_text())
        target = places["grpc"]
        assert "localhost:50054" in score
        words = shlex.split(score.replace("localhost:50054", target))[1:]
        shown = subprocess.run(
            [sys.executable, "-m", "assay.cli", *words], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert shown.returncode == 0, shown.stderr
        (printed,) = re.findall(r"three_apples\.png: orm = (0\.\d+)", shown.stdout)
        assert f"{_score_over_http(places['http']):.4f}" == printed
    finally:
        service.terminate()
        assert service.wait(timeout=60) == 0


def _score_over_http(address: str) -> float:
    """The page's picture and prompt, as a form, judged by the scorer of whole pictures."""
    asked = {"scorer": "orm", "items": [{"prompt": "a photo of three apples"}]}
    picture = ("three_apples.png", (ROOT / "docs/three_apples.png").read_bytes())
    form = {"data": {"request": json.dumps(asked)}, "files": [("images", picture)]}
    (result,) = httpx.post(f"http://{address}/v1/score", timeout=60, **form).json()["results"]
    return float(result["score"]["value"])


def test_the_benchmark_runs_on_any_model(llava_folder: Path) -> None:
    flags = ["--model", str(llava_folder), "--candidates", "2", "--repeats", "1", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "benchmarks/verifier.py", *flags], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^(?:orm|parm-potential) .* \d+\.\d +\d+\.\d$", done.stdout, re.MULTILINE)) == 6
