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


FREE = (
    "model.gradient_checkpointing=true",
    "evaluation.batch_size=1",
    "evaluation.every_epochs=2",
    "evaluation.patience=3",
    "evaluation.keep_best=false",
)


def test_what_changes_no_numbers_may_change(tmp_path: Path) -> None:
    """Also where an earlier version has written it down."""
    run = _begun(tmp_path)
    run.claim(_config(*FREE))
    record = tmp_path / "run.json"
    old = {"model.gradient_checkpointing": False, "evaluation.batch_size": 32, "evaluation.patience": None}
    record.write_text(json.dumps(json.loads(record.read_text()) | old))
    run.claim(_config(*FREE))


def test_after_the_first_evaluation_only_what_it_depends_on_is_held(tmp_path: Path) -> None:
    """Memory ran out in the first epoch: smaller micro-batches do not cost the evaluation of the start."""
    run = RunFolder(tmp_path)
    run.claim(_config())
    (tmp_path / "evaluations").mkdir()
    with pytest.raises(ConfigError, match=r"holds a run with model\.height = 64, not 32"):
        run.claim(_config("model.height=32", "sampling.micro_batch_size=4"))
    smaller = ("sampling.micro_batch_size=4", "model.lora_rank=8", "optimizer.schedule=cosine")
    run.claim(_config(*smaller))
    run.append_metrics({"epoch": 1})
    run.claim(_config(*smaller))
    with pytest.raises(ConfigError, match=r"holds a run with model\.lora_rank = 8, not 32"):
        run.claim(_config())


def test_what_the_cold_start_was_trained_on_top_of_is_held_too(tmp_path: Path) -> None:
    """It is merged into the weights as well: with another one below, the numbers are others."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, content in ((first, b"one"), (second, b"two")):
        folder.mkdir()
        (folder / "pytorch_lora_weights.safetensors").write_bytes(content)
    (second / "needs.json").write_text(json.dumps({"base": "any", "fuse_first": str(first)}))
    run = _begun(tmp_path / "run", f"model.cold_start_lora={second}")
    run.claim(_config(f"model.cold_start_lora={second}"))
    (first / "pytorch_lora_weights.safetensors").write_bytes(b"another")
    with pytest.raises(ConfigError, match=r"holds a run with content of model\.cold_start_lora"):
        run.claim(_config(f"model.cold_start_lora={second}"))
