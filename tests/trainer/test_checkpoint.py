"""Average and checkpoint: what is written is what is read, and a half-written checkpoint is never taken."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from trainer.checkpoint import gather_tensors, load_checkpoint, newest_checkpoint, put_tensors, save_checkpoint
from trainer.config import OptimizerConfig
from trainer.ema import Ema
from trainer.layout import Layout, lay_out


def _model() -> tuple[Layout, Ema]:
    torch.manual_seed(0)
    module = torch.nn.ParameterDict({name: torch.randn(3, 2) for name in ("b", "a")})
    layout = lay_out(Accelerator(cpu=True), module, OptimizerConfig(learning_rate=0.1))
    return layout, Ema(list(layout.parameters.values()), 0.9, 1)


def _save(root: Path, epoch: int, layout: Layout, ema: Ema, state: dict) -> None:
    lora = root / "lora"
    lora.mkdir(exist_ok=True)
    (lora / "weights").write_text(f"of epoch {epoch}")
    save_checkpoint(root, epoch=epoch, tensors=gather_tensors(layout, {"ema": ema}), state=state, result=lora)


def _steps(layout: Layout, ema: Ema, first: int, number: int) -> None:
    for step in range(first, first + number):
        layout.backward(sum((p**2).sum() * (step + 1) for p in layout.parameters.values()), last=True)
        layout.step()
        ema.update(step)


def test_a_resumed_optimizer_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    straight = _model()
    _steps(*straight, 0, 5)
    first = _model()
    _steps(*first, 0, 3)
    _save(tmp_path, 3, *first, {"global_step": 3})
    resumed = _model()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    tensors, state = load_checkpoint(newest)
    put_tensors(tensors, resumed[0], {"ema": resumed[1]})
    assert state == {"global_step": 3, "epoch": 3}
    _steps(*resumed, 3, 2)
    for name, value in straight[0].parameters.items():
        assert torch.equal(value, resumed[0].parameters[name])
    for one, other in zip(straight[1].values, resumed[1].values, strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_from_before_the_first_step_is_one(tmp_path: Path) -> None:
    _save(tmp_path, 1, *_model(), {})
    tensors, _ = load_checkpoint(tmp_path / "epoch-000001")
    assert tensors["optimizer"] == {}
    straight, resumed = _model(), _model()
    put_tensors(tensors, resumed[0], {"ema": resumed[1]})
    for model in (straight, resumed):
        _steps(*model, 0, 2)
    assert torch.equal(straight[0].parameters["a"], resumed[0].parameters["a"])


def test_leftovers_of_a_killed_write_are_ignored_and_old_checkpoints_go(tmp_path: Path) -> None:
    model = _model()
    assert newest_checkpoint(tmp_path) is None
    for epoch in (2, 9, 10):
        _save(tmp_path, epoch, *model, {})
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
