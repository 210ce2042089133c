"""What trackers are told of a run, and that a run that goes on is the same one to them."""

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from assay.config import load_config
from trainer.config import TrainConfig
from trainer.run_folder import RunFolder
from trainer.trackers import start_trackers

MINIATURE = Path(__file__).parents[2] / "configs/train/miniature_counting.yaml"
SETTINGS = {
    "sampling.group_size": 16,
    "optimizer.learning_rate": 0.0015,
    "optimizer.betas.1": 0.999,
    "algorithm.timestep_strategy": "first",
    "rewards.0.targets.0": "localhost:50051",
    "sampling.same_latent": False,
    "fingerprints.counting": "f1",
}


def _start(folder: Path, epoch: int, *trackers: str) -> Accelerator:
    accelerator = Accelerator(cpu=True, project_dir=folder)
    accelerator.log_with = list(trackers)
    start_trackers(accelerator, load_config(TrainConfig, MINIATURE), RunFolder(folder), epoch, {"counting": "f1"})
    return accelerator


def test_tensorboard_has_the_settings_once(tmp_path: Path) -> None:
    for epoch in (0, 3):
        _start(tmp_path, epoch, "tensorboard").end_training()
    (saved,) = tmp_path.rglob("hparams.yml")
    assert yaml.safe_load(saved.read_text()).items() >= SETTINGS.items()
    found: dict[str, Any] = {}
    for file in tmp_path.rglob("events.out.tfevents*"):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                for name, number in data.session_start_info.hparams.items():
                    found[name] = getattr(number, number.WhichOneof("kind"))
    assert found.items() >= SETTINGS.items()


def test_a_run_that_goes_on_is_the_same_to_wandb_and_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the two packages, which need a server: how accelerate begins a run with them."""
    begun: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []

    def begin(**arguments: Any) -> SimpleNamespace:
        begun.append(arguments)
        return SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)

    config = SimpleNamespace(update=lambda values, **_: told.append(values))
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=begin, config=config))
    first, moved, other = (tmp_path / name for name in ("counting: 1", "moved", "again"))
    for folder in (first, other):
        folder.mkdir()
        for epoch in (0, 2):
            _start(folder, epoch, "wandb", "trackio")
    shutil.move(first, moved)
    _start(moved, 2, "wandb", "trackio")
    name = begun[0]["name"]
    assert re.fullmatch(r"counting--1-[0-9a-f]{12}", name)
    wandb = {"project": "assay", "name": name, "id": name, "resume": "allow"}
    trackio = {"project": "assay", "name": name, "resume": "allow"}
    assert begun[:4] == begun[-2:] * 2 == [wandb, trackio] * 2
    assert begun[4] == begun[6]
    assert begun[4]["id"] != name
    assert all(values.items() >= SETTINGS.items() for values in told)
    assert len(told) == len(begun) == 10
