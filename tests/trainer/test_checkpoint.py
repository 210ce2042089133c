"""Average and checkpoint: what is written is what is read, and a half-written checkpoint is never taken."""

from pathlib import Path

import pytest
import torch

from trainer.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from trainer.ema import Ema


def _model() -> tuple[dict[str, torch.nn.Parameter], torch.optim.AdamW, Ema]:
    torch.manual_seed(0)
    parameters = {name: torch.nn.Parameter(torch.randn(3, 2)) for name in ("b.lora_A", "a.lora_B")}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    return parameters, optimizer, Ema(list(parameters.values()), 0.9, 1)


def _save(root: Path, epoch: int, model: tuple, state: dict) -> None:
    lora = root / "lora"
    lora.mkdir(exist_ok=True)
    (lora / "weights").write_text(f"of epoch {epoch}")
    parameters, optimizer, ema = model
    save_checkpoint(
        root, epoch=epoch, parameters=parameters, optimizer=optimizer, copies={"ema": ema}, state=state, lora=lora
    )


def _steps(parameters: dict, optimizer: torch.optim.Optimizer, ema: Ema, first: int, number: int) -> None:
    for step in range(first, first + number):
        sum((p**2).sum() * (step + 1) for p in parameters.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(step)


def test_a_resumed_optimizer_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    straight = _model()
    _steps(*straight, 0, 5)
    first = _model()
    _steps(*first, 0, 3)
    _save(tmp_path, 3, first, {"global_step": 3})
    resumed = _model()
    state = load_checkpoint(
        newest_checkpoint(tmp_path), parameters=resumed[0], optimizer=resumed[1], copies={"ema": resumed[2]}
    )
    assert state == {"global_step": 3, "epoch": 3}
    _steps(*resumed, 3, 2)
    for name in straight[0]:
        assert torch.equal(straight[0][name], resumed[0][name])
    for one, other in zip(straight[2].values, resumed[2].values, strict=True):
        assert torch.equal(one, other)


def test_leftovers_of_a_killed_write_are_ignored_and_old_checkpoints_go(tmp_path: Path) -> None:
    parameters, optimizer, ema = _model()
    assert newest_checkpoint(tmp_path) is None
    for epoch in (2, 9, 10):
        _save(tmp_path, epoch, (parameters, optimizer, ema), {})
    (tmp_path / ".partial-000011-1").mkdir()
    assert newest_checkpoint(tmp_path).name == "epoch-000010"
    assert (tmp_path / "epoch-000009/lora/weights").read_text() == "of epoch 9"
    assert sorted(folder.name for folder in tmp_path.glob("epoch-*")) == ["epoch-000009", "epoch-000010"]


def test_ema_decay_and_rhythm() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    ema = Ema([parameter], decay=0.9, every_steps=8)
    assert ema.decay_at(7) == pytest.approx(0.470588, abs=1e-6)
    assert ema.decay_at(79) == pytest.approx(0.898876, abs=1e-6)
    assert ema.decay_at(80) == ema.decay_at(10_000) == 0.9
    with torch.no_grad():
        parameter.fill_(1.0)
    ema.update(6)
    assert ema.values[0].item() == 0
    ema.update(7)
    assert ema.values[0].item() == pytest.approx(1 - 0.470588, abs=1e-6)
    with ema.in_place():
        assert parameter.item() == pytest.approx(1 - 0.470588, abs=1e-6)
    assert parameter.item() == 1.0
