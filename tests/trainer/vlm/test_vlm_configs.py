"""The shipped configurations of verifiers are valid, and learn what `assay data verifier` writes."""

from pathlib import Path

import pytest

from assay.config import load_config
from assay.serve_command import find_in_repository
from pipelines.spatial_tasks.zero_shot import ZeroShotSettings
from pipelines.verifier_data.settings import VerifierDataSettings
from trainer.vlm.config import FineTuningConfig

ROOT = Path(__file__).parents[3]
CONFIGS = [path for ending in ("orm", "parm") for path in sorted((ROOT / "configs/train").glob(f"*_{ending}.yaml"))]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_learn_one_file_and_are_measured_on_its_other_side(path: Path) -> None:
    config = load_config(FineTuningConfig, path)
    kind = path.stem.rpartition("_")[2]
    assert [source.path.name for source in config.data] == [f"{kind}.json"]
    assert [source.path.name for source in config.held_out] == [f"{kind}_held_out.json"]
    assert path.stem.rpartition("_")[0] in str(config.output)


@pytest.mark.parametrize("name", ["miniature_spatial", "qwen3_vl_spatial"])
def test_spatial_configurations_learn_the_train_split_and_are_measured_on_the_other(name: str) -> None:
    config = load_config(FineTuningConfig, ROOT / f"configs/train/{name}.yaml")
    assert {source.path.name.split("_")[1] for source in config.data} == {"train"}
    assert {source.path.name.split("_")[1] for source in config.held_out} == {"val"}
    assert config.held_out_answers == "exact"  # points are no yes and no
    assert str(config.output) == f"runs/{name}"


def test_the_miniature_points_where_its_tasks_are_built() -> None:
    tasks = load_config(ZeroShotSettings, ROOT / "configs/pipelines/miniature_spatial.yaml")
    config = load_config(FineTuningConfig, ROOT / "configs/train/miniature_spatial.yaml")
    assert {source.path.parent for source in (*config.data, *config.held_out)} == {tasks.out_dir}


def test_the_miniatures_learn_where_its_data_is_written() -> None:
    data = load_config(VerifierDataSettings, ROOT / "configs/pipelines/miniature_verifier_data.yaml")
    for kind in ("orm", "parm"):
        config = load_config(FineTuningConfig, find_in_repository(f"configs/train/miniature_{kind}.yaml"))
        assert {source.path.parent for source in (*config.data, *config.held_out)} == {data.output}
