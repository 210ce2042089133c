"""What the README promises, done as it says, in processes of its own: serve, score, use the client, train, survive."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from assay.client import RewardClient

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
ASSAY = [sys.executable, "-m", "assay.cli"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """`assay serve geneval`, on the miniature's weights."""
    port = _free_port()
    command = [*ASSAY, "serve", "geneval", f"serve.grpc_port={port}", "serve.http_port=0"]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT)
    try:
        with RewardClient([f"localhost:{port}"]) as client:
            client.wait_until_ready(timeout_s=120)
        yield f"localhost:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()


def _score(target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*ASSAY, "score", *arguments, "--target", target]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


def test_score_command_says_why(target: str) -> None:
    done = _score(target, "docs/three_apples.png", "--class", "apple", "--count", "3", "--json")
    assert done.returncode == 0, done.stderr
    assert '"strict_correct": 1.0' in done.stdout
    done = _score(target, "docs/three_apples.png", "--class", "apple", "--count", "5", "--scorer", "counting")
    assert done.returncode == 0, done.stderr
    assert "found 3" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class", "aple", "--count", "3"], "apple"),
        (["--class", "apple", "--count", "0"], "count"),
        (["--class", "apple", "--count", "3", "--color", "mauve"], "mauve"),
        (["--class", "apple", "--count", "3", "--scorer", "beauty"], "beauty"),
        (["--prompt", "a photo of three apples"], "no scorer there judges"),
    ],
)
def test_bad_questions_get_clear_answers_and_the_server_goes_on(
    target: str, arguments: list[str], message: str
) -> None:
    done = _score(target, "docs/three_apples.png", *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert _score(target, "docs/three_apples.png", "--class", "apple", "--count", "3").returncode == 0


def test_snippets_of_the_readme_run(target: str) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    client_snippet = next(snippet for snippet in snippets if "RewardClient" in snippet)
    image = np.asarray(Image.open(ROOT / "docs/three_apples.png").convert("RGB"))
    scope: dict[str, object] = {"image": image}
    exec(client_snippet.replace("localhost:50051", target), scope)
    (outcome,) = scope["outcomes"]  # type: ignore[misc]
    assert outcome.value == 1.0


def test_training_survives_the_death_of_its_service(tmp_path: Path) -> None:
    """SIGKILL the service while images are being scored: training waits for its successor and loses no sample."""
    port = _free_port()
    overrides = ["evaluation.num_images=24", "evaluation.num_steps=5", "evaluation.gallery_prompts=4"]
    overrides += ["sampling.groups_per_epoch=4", "sampling.group_size=8", "sampling.num_steps=4", "run.epochs=3"]
    overrides += [f"run.output={tmp_path / 'run'}", f"rewards.0.targets=[localhost:{port}]", "run.threads=1"]
    training = subprocess.Popen(
        ["scripts/train_with_service.sh", "configs/train/miniature_counting.yaml", *overrides],
        cwd=ROOT,
        env={
            **ENVIRONMENT,
            "BIN": str(Path(sys.executable).parent),
            "SERVICE_LOG": str(tmp_path / "service.log"),
            "SERVICE_ARGS": f"serve.grpc_port={port} serve.http_port=0",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 150
    while not metrics.exists():
        assert training.poll() is None, training.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with contextlib.suppress(psutil.NoSuchProcess):  # the next epoch's images are being sampled and scored
        _service_below(training.pid).kill()
    output, _ = training.communicate(timeout=200)
    assert training.returncode == 0, output
    assert "starting it again" in output
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(line["unscored"] == 0 and line["groups_dropped"] == 0 for line in lines)
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lora_snippet = next(snippet for snippet in snippets if "load_lora_weights" in snippet)
    scope: dict[str, object] = {}
    exec(lora_snippet.replace("runs/miniature_counting", str(tmp_path / "run")), scope)
    assert scope["image"].size == (64, 64)  # type: ignore[attr-defined]
    assert not [p for p in psutil.process_iter(["cmdline"]) if f"serve.grpc_port={port}" in (p.info["cmdline"] or [])]


def test_a_service_that_cannot_start_ends_training_with_its_reason(tmp_path: Path) -> None:
    done = subprocess.run(
        ["scripts/train_with_service.sh", "configs/train/miniature_counting.yaml", f"run.output={tmp_path / 'run'}"],
        cwd=ROOT,
        env={
            **ENVIRONMENT,
            "BIN": str(Path(sys.executable).parent),
            "SERVICE_LOG": str(tmp_path / "service.log"),
            "SERVICE_ARGS": "scorer.detector.model=no/such/folder serve.grpc_port=0",
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode != 0
    assert "cannot start" in done.stderr
    assert "no/such/folder" in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_service_that_runs_already_is_trained_against_and_no_other_is_started(target: str, tmp_path: Path) -> None:
    tiny = ["run.epochs=1", "run.threads=1", "sampling.groups_per_epoch=4", "sampling.group_size=4"]
    tiny += ["sampling.num_steps=4", "evaluation.num_images=8", "evaluation.num_steps=4"]
    done = subprocess.run(
        ["scripts/train_with_service.sh", "configs/train/miniature_counting.yaml", *tiny, f"run.output={tmp_path}/run"],
        cwd=ROOT,
        env={**ENVIRONMENT, "BIN": str(Path(sys.executable).parent), "TARGET": target},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "starting the GenEval service" not in done.stdout
    (line,) = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert line["unscored"] == 0


def _service_below(pid: int) -> psutil.Process:
    return next(p for p in psutil.Process(pid).children(recursive=True) if "serve" in p.cmdline()[1:4])
