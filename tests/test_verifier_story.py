"""docs/verifier_training.md, docs/best_of_n.md and docs/show_o_training.md, command by command, with less of all."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_commands import ROOT, commands_of, make_home, run_command
from PIL import Image
from served_geneval import serve, serve_geneval

from assay.client import RewardClient
from assay.outcomes import Scored
from assay.tasks import OutcomeTask

pytestmark = pytest.mark.timeout(900)
FEW = "num_candidates=4 batch_size=4 max_prompts=3 held_out=0.3"
BRIEF = "epochs=null max_steps=2 batch_size=2 threads=1"
SHORT = (
    "run.epochs=1 run.threads=1 run.trackers=[] algorithm.pairs_per_epoch=4 algorithm.micro_batch_pairs=2 "
    "algorithm.optimizer_steps_per_epoch=2 algorithm.mask_draws=1 "
    "evaluation.num_images=2 evaluation.num_steps=2 evaluation.batch_size=2"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def geneval(home: Path) -> Iterator[str]:
    with serve_geneval(home) as address:
        yield address


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_verifiers_are_trained_and_served_as_their_page_says(home: Path, geneval: str) -> None:
    serve_first, data, orm, parm, serve_last = commands_of("docs/verifier_training.md")
    assert serve_first.startswith(".venv/bin/assay serve geneval ")
    run_command(f"{data} {FEW} --target {geneval}", home)
    found = read(home / "runs/verifier_data/summary.json")
    assert (found["candidates"], found["prompts"]["done"]) == (12, 3)
    assert read(home / "runs/verifier_data/orm_held_out.json")
    for command in (orm, parm):
        run_command(f"{command} {BRIEF}", home)
    kinds = {"orm": {"orm"}, "parm": {"orm", "clarity", "potential"}}
    for name in kinds:
        held_out = lines(home / f"runs/miniature_{name}/held_out.jsonl")
        assert [line.pop("step") for line in held_out] == [0, 2]
        assert all(line.keys() <= kinds[name] for line in held_out)
        assert held_out[0]["orm"]["questions"] > 0
    picture = np.asarray(Image.open(ROOT / "docs/three_apples.png").convert("RGB"))
    with serve(serve_last.split()[2:], home) as target, RewardClient([target]) as client:
        assert {info.name for info in client.list_scorers()} == {"orm", "parm-clarity", "parm-potential"}
        (outcome,) = client.score([picture], scorer="orm", prompts=["a photo of three apples"], tasks=[OutcomeTask()])
    assert isinstance(outcome, Scored)
    assert 0 < outcome.value < 1


def test_the_best_of_n_is_drawn_chosen_and_judged_as_its_page_says(home: Path, geneval: str) -> None:
    serve_verifier, parm, alone, serve_last, judge = commands_of("docs/best_of_n.md")
    assert serve_last == ".venv/bin/assay serve geneval"
    with serve(serve_verifier.split()[2:], home) as verifier:
        fewer = f"eval_num=1 max_prompts=2 batch_size=3 verifiers.parm.targets=[{verifier}]"
        run_command(f"{parm} search_num=3 {fewer}", home)
        run_command(f"{alone} {fewer}", home)
    run_command(f"{judge} --target {geneval}", home)
    chosen, drawn = (read(home / f"runs/best_of_n/{name}/summary.json") for name in ("showo_parm", "showo"))
    assert (chosen["images"], drawn["images"]) == (2, 2)
    assert set(chosen["asked"]) <= {"clarity", "potential", "outcome"}
    assert chosen["asked"]["clarity"] >= 6  # of each candidate at least once
    assert drawn["asked"] == {}
    assert drawn["steps"] == 2 * 12
    assert chosen["steps_saved"] == round(1 - chosen["steps"] / (2 * 3 * 12), 4)
    assert read(home / "runs/best_of_n/judged/parm/summary.json")["scored"] == 2


@pytest.mark.slow
def test_preferences_are_learnt_as_the_page_of_show_o_says(home: Path, geneval: str) -> None:
    serve_first, data, train, *_ = commands_of("docs/show_o_training.md")
    assert " serve geneval " in serve_first
    run_command(data.replace("--pairs 400", "--pairs 8"), home)
    run_command(f"{train} {SHORT} 'rewards.0.targets=[{geneval}]'", home)
    assert (home / "runs/miniature_showo_dpo/lora").is_dir()
    assert (home / "runs/miniature_showo_dpo/table.md").is_file()


@pytest.mark.slow
def test_the_spatial_judges_preferences_are_learnt_as_the_page_says(home: Path, geneval: str) -> None:
    *_, serve_first, data, train = commands_of("docs/show_o_training.md")
    with serve(serve_first.split()[2:], home) as spatial:
        run_command(f"{data} num_candidates=12 max_prompts=8 batch_size=12 --target {spatial}", home)
        labels = read(home / "runs/spatial_pairs/summary.json")["labels"]
        assert labels["yes"] + labels["no"] == 96
        targets = f"'rewards.0.targets=[{spatial}]' 'evaluation.rewards.0.targets=[{geneval}]'"
        run_command(f"{train} {SHORT} {targets}", home)
    after = read(home / "runs/miniature_showo_spatial_dpo/results.json")["after"]
    assert set(after["rewards"]) == {"spatial", "geneval"}
