"""Settings: what wins, and errors that name the field, the value and what is allowed."""

from pathlib import Path
from typing import Literal

import pytest
import yaml

from assay.config import ConfigModel, load_config
from assay.errors import ConfigError
from assay.rewards import RewardConfig
from assay.serve_command import ServiceConfig
from assay.serving.settings import ServeConfig


class Sampling(ConfigModel):
    num_steps: int = 10
    method: Literal["sde", "cps"] = "sde"


class Settings(ConfigModel):
    learning_rate: float = 1e-4
    name: str | None = None
    sampling: Sampling = Sampling()
    rewards: tuple[RewardConfig, ...] = ()
    seeds: tuple[int, ...] = ()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(
        "learning_rate: 0.5\nsampling: {num_steps: 3}\nrewards: [{name: r, scorer: s, targets: ['localhost:1']}]\n"
    )
    return path


def load(path: Path | None, *overrides: str, **environment: str) -> Settings:
    return load_config(Settings, path, overrides, environment=environment or {"HOME": "/"})


def refused(path: Path | None, *overrides: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, *overrides, **environment)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


def test_file_then_environment_then_command_line(file: Path) -> None:
    assert load(file).learning_rate == 0.5
    assert load(file, ASSAY_LEARNING_RATE="0.25").learning_rate == 0.25
    assert load(file, "learning_rate=1e-3", "learning_rate=2e-3", ASSAY_LEARNING_RATE="0.25").learning_rate == 2e-3
    assert load(None).learning_rate == 1e-4


def test_nested_fields(file: Path) -> None:
    assert load(file, "sampling.num_steps=7").sampling == Sampling(num_steps=7)
    assert load(file, ASSAY_SAMPLING__METHOD="cps").sampling == Sampling(num_steps=3, method="cps")
    assert load(file, "rewards.0.weight=2").rewards[0].weight == 2.0
    assert load(None, "sampling.num_steps=4").sampling.num_steps == 4
    assert load(None, "seeds=[1, 2]", "name=null").seeds == (1, 2)
    assert load(None, "sampling={num_steps: 5}").sampling.num_steps == 5


def test_unknown_fields_are_refused_with_what_is_known(file: Path) -> None:
    message = refused(file, "sampling.num_step=7")
    assert message == f"{file}: unknown field sampling.num_step (did you mean num_steps? allowed: method, num_steps)"
    assert "unknown field learning_rat (did you mean learning_rate?" in refused(None, "learning_rat=1")
    assert "rewards.0.wieght (did you mean weight?" in refused(file, "rewards.0.wieght=1")
    assert "sampling.nope" in refused(None, ASSAY_SAMPLING__NOPE="1")


def test_other_programs_variables_are_left_alone() -> None:
    assert load(None, ASSAY_TOKEN="secret").learning_rate == 1e-4


def test_wrong_values_are_named_with_what_is_allowed(file: Path) -> None:
    assert "learning_rate = 'fast': Input should be a valid number" in refused(file, "learning_rate=fast")
    assert "sampling.method = 'ode': Input should be 'sde' or 'cps'" in refused(file, "sampling.method=ode")
    assert "rewards.0.scorer is missing" in refused(None, "rewards=[{name: r, targets: [x]}]")
    two = refused(file, "learning_rate=fast", "sampling.num_steps=few")
    assert two.count("\n") == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rate", "'learning_rate' is not of the form field=value"),
        ("=3", "'=3' is not of the form field=value"),
        ("learning_rate.x=3", "learning_rate = 0.5 has no fields"),
        ("rewards.1.weight=3", "rewards has 1 entries; '1' is not the index of one"),
        ("rewards.first.weight=3", "'first' is not the index of one"),
        ("seeds=[1", "seeds = '[1' is not valid YAML"),
    ],
)
def test_malformed_overrides_are_named(file: Path, override: str, message: str) -> None:
    assert message in refused(file, override)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    assert "cannot read" in refused(tmp_path / "nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    assert "is not valid YAML" in refused(broken)
    broken.write_text("- 1")
    assert "must hold fields with values, not a list" in refused(broken)
    broken.write_text("")
    assert load(broken) == Settings()


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("name: !!python/object/apply:os.system ['true']\n")
    assert "is not valid YAML" in refused(path)


def test_the_example_shows_every_field_of_serving_with_its_default() -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "serving.yaml"
    assert load_config(ServiceConfig, example, environment={"HOME": "/"}).serve == ServeConfig()
    assert set(yaml.safe_load(example.read_text())["serve"]) == set(ServeConfig.model_fields)
