"""Which runs a folder takes up again: those with the same numbers."""

import json
from pathlib import Path

import pytest

from assay.config import load_config
from assay.errors import ConfigError
from trainer.config import TrainConfig
from trainer.run_folder import RunFolder

MINIATURE = Path(__file__).parents[2] / "configs/train/miniature_counting.yaml"


def _config(*overrides: str) -> TrainConfig:
    return load_config(TrainConfig, MINIATURE, list(overrides))


def _begun(folder: Path, *overrides: str) -> RunFolder:
    """A folder in which an epoch was trained."""
    run = RunFolder(folder)
    run.claim(_config(*overrides))
    run.append_metrics({"epoch": 1})
    return run


def _forget(folder: Path, *fields: str) -> None:
    """As if these fields, or sections, had not been there when the run began."""
    record = folder / "run.json"
    known = json.loads(record.read_text())
    kept = {name: value for name, value in known.items() if not name.startswith(fields)}
    assert len(kept) < len(known)
    record.write_text(json.dumps(kept))


def test_a_run_from_before_an_update_that_brought_fields_goes_on(tmp_path: Path) -> None:
    run = _begun(tmp_path, "ema={}")
    _forget(tmp_path, "optimizer.epsilon", "ema.", "rewards.0.component", "algorithm.window", "sampling.same_latent")
    run.claim(_config("ema={}"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("ema.decay", "0.5"), ("sampling.same_latent", "true"), ("algorithm.kl_denominator", "transition_std")],
)
def test_a_field_that_an_update_brought_is_not_changed_in_mid_run(tmp_path: Path, field: str, value: str) -> None:
    run = _begun(tmp_path)
    _forget(tmp_path, field)
    with pytest.raises(ConfigError, match=f"holds a run with {field} = None, not "):
        run.claim(_config(f"{field}={value}"))


def test_a_section_that_was_null_is_no_new_one(tmp_path: Path) -> None:
    """Every field of the section has its default, but the run was one without it."""
    run = _begun(tmp_path, "evaluation=null")
    with pytest.raises(ConfigError, match=r"holds a run with evaluation\.\w+ = None"):
        run.claim(_config("evaluation={}"))
