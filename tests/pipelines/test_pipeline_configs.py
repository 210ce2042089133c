"""The shipped configurations of batch jobs are valid as they stand, and name files that are there."""

from pathlib import Path

import pytest

from assay.config import load_config
from pipelines.best_of_n.prompts import read_prompts
from pipelines.best_of_n.settings import BestOfNSettings
from pipelines.evaluate.prompts import read_prompt_lines
from pipelines.evaluate.settings import EvaluateSettings
from pipelines.generate.settings import GenerateSettings
from pipelines.planning.settings import PlanningSettings
from pipelines.verifier_data.settings import VerifierDataSettings

FOLDER = Path(__file__).parents[2] / "configs/pipelines"


def test_every_file_is_of_a_known_job() -> None:
    jobs = {path.stem.rpartition("_")[2] for path in FOLDER.glob("*.yaml")}
    assert jobs == {"generate", "geneval", "data", "n", "plan", "spatial"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*_generate.yaml")), ids=lambda path: path.stem)
def test_generate(path: Path) -> None:
    settings = load_config(GenerateSettings, path)
    assert settings.num_inference_steps == 4, "these are distilled checkpoints"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*_plan.yaml")), ids=lambda path: path.stem)
def test_plan(path: Path) -> None:
    settings = load_config(PlanningSettings, path)
    assert settings.planning_model == "Qwen3-VL-4B-Instruct"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*_best_of_n.yaml")), ids=lambda path: path.stem)
def test_best_of_n(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parents[1])
    settings = load_config(BestOfNSettings, path)
    lines = read_prompts(settings.prompts_file, settings.metadata_file)
    assert not [line.problem for line in lines if line.problem]
    assert {"orm_ft", "parm"} <= set(settings.verifiers)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*_geneval.yaml")), ids=lambda path: path.stem)
def test_evaluate(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parents[1])
    lines = read_prompt_lines(load_config(EvaluateSettings, path).prompts)
    assert not [line.problem for line in lines if line.problem]
    assert len(lines) == (97 if path.stem.startswith("miniature") else 553)
    tags = [line.tag for line in lines]
    assert len(set(tags)) == 6
    if len(lines) == 553:
        assert [tags.count(tag) for tag in dict.fromkeys(tags)] == [80, 99, 80, 94, 100, 100]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*_verifier_data.yaml")), ids=lambda path: path.stem)
def test_verifier_data(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parents[1])
    settings = load_config(VerifierDataSettings, path)
    assert not [line.problem for line in read_prompt_lines(settings.prompts) if line.problem]
    # The spatial judge's labels make pairs for DPO alone, which is measured on other prompts.
    assert (0 < settings.held_out < 1) == (settings.scorer == "geneval")
    assert settings.held_out or settings.exclude
