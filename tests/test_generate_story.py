"""docs/image_generation.md, command by command, as a user types them, in a folder with the miniature's checkpoint."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_commands import ENVIRONMENT, commands_of, make_home, run_command
from PIL import Image
from served_geneval import serve_geneval
from served_relation import serve_relation

from assay.client import RewardClient
from assay.outcomes import Scored

ROOT = Path(__file__).parents[1]
PAGE = "docs/image_generation.md"
WEIGHTS = ROOT / "miniature/weights/flux2_klein"
PLANNER = "Qwen3-VL-4B-Instruct"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the repository's files, planners' instructions, and the checkpoint under its usual name."""
    folder = make_home(tmp_path_factory.mktemp("home"))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/flux2-klein-4B").symlink_to(WEIGHTS)
    for planner in (PLANNER, "another-planner"):
        make = ["-m", "miniature.editing", "--root", ".", "--samples", "12", "--planning-model", planner]
        subprocess.run([sys.executable, *make], cwd=folder, env=ENVIRONMENT, check=True)
    return folder


@pytest.fixture(scope="module")
def relation_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_relation(tmp_path_factory.mktemp("judge")) as server:
        yield server.target


@pytest.mark.timeout(900)  # a dozen commands, each a process that loads a model
def test_every_command_of_the_page_runs(home: Path, relation_service: str) -> None:
    commands = commands_of(PAGE)
    assert len(commands) >= 10
    assert sum("localhost:50055" in command for command in commands) == 1
    for command in commands:
        command = command.replace("localhost:50055", relation_service)
        done = run_command(command, home)
        assert "Traceback" not in done.stderr
    check_images(home)
    check_scores(home)


def check_images(home: Path) -> None:
    records = [json.loads(line) for line in (home / f"predicted_instructions/{PLANNER}/results.jsonl").open()]
    run = home / f"generated_images/miniature/{PLANNER}/flux2-klein-4B"
    for record in records:
        images = sorted((run / str(record["id"])).glob("img_*.png"))
        assert [image.name for image in images] == [f"img_{k}.png" for k in range(len(record["instructions"]))]
        assert all(Image.open(image).size == (64, 64) for image in images)
    stats = json.loads((run / "stats.json").read_text())
    assert sum(number for name, number in stats["summary"].items() if name.startswith("number of")) == len(records)


def check_scores(home: Path) -> None:
    """Moves bring about what they should: by boxes, or by the model's guess where an object is not found, or twice."""
    run = home / f"runs/generate/generated_images/miniature/{PLANNER}/flux2_klein"
    found = json.loads((run / "spatial_scores.json").read_text())
    samples = found["samples"]
    assert (samples["planned"], samples["judged"]) == (24, samples["with_relation"])
    assert samples["with_relation"] + samples["without_relation"] == 24
    assert (found["views"]["unscored"], found["failures"]) == (0, [])
    assert found["pairs"] == found["views"]["with_relation"] >= 5
    assert found["before"] < 0.5 < found["after"]
    assert found["change"][0] == pytest.approx(found["after"] - found["before"], abs=2e-6)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_files_of_an_undisturbed_one(home: Path) -> None:
    command = [sys.executable, "-m", "assay.cli", "generate", "--planning_model", PLANNER, "--num_inference_steps", "4"]
    undisturbed = [*command, "--output_root", "undisturbed"]
    subprocess.run(undisturbed, cwd=home, env=ENVIRONMENT, check=True, capture_output=True, timeout=240)
    disturbed = [*command, "--output_root", "disturbed"]
    for wanted in (1, 5):
        process = subprocess.Popen(disturbed, cwd=home, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(list((home / "disturbed").rglob(".unit.json"))) < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(disturbed, cwd=home, env=ENVIRONMENT, check=True, capture_output=True, timeout=240)
    assert _files(home / "disturbed") == _files(home / "undisturbed")
    assert not list((home / "disturbed/.assay/attempts").iterdir())


@pytest.mark.slow  # the same without the command line: tests/miniature/test_flux2_klein_quality.py
def test_pictures_do_what_the_instructions_say(tmp_path: Path) -> None:
    """Judged by a GenEval service in a process of its own: right objects, colours and counts, and nothing else."""
    make = ["-m", "miniature.editing", "--root", ".", "--samples", "60", "--seed", "2000000007"]
    subprocess.run([sys.executable, *make], cwd=tmp_path, env=ENVIRONMENT, check=True)
    flags = ["--planning_model", PLANNER, "--num_inference_steps", "4", "--flux_ckpt", str(WEIGHTS)]
    command = [sys.executable, "-m", "assay.cli", "generate", *flags]
    subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, check=True, capture_output=True, timeout=240)
    expected = [json.loads(line) for line in (tmp_path / "expected.jsonl").open()]
    run = tmp_path / f"generated_images/miniature/{PLANNER}/{WEIGHTS.name}"
    images = [Image.open(run / str(edit["id"]) / f"img_{edit['k']}.png") for edit in expected]
    tasks = [edit["task"] for edit in expected]
    with serve_geneval() as address, RewardClient([address]) as client:
        outcomes = client.score(images, scorer="geneval", prompts=[task["prompt"] for task in tasks], tasks=tasks)
    followed = [isinstance(outcome, Scored) and outcome.components["correct"] for outcome in outcomes]
    assert len(followed) > 60
    assert sum(followed) / len(followed) >= 0.8


def _files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "run.log" and "/." not in str(path)[len(str(root)) :]
    }
