"""fp16's loss scale: gradients are brought back to size once, and all processes skip a step together."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from fp16_on_cpus import scale_losses, shard
from redness import Redness
from safetensors.torch import load_file
from whole_runs import FSDP2, ROOT, finish_run, logged_metrics, write_config

from assay.testing import serve_in_background
from trainer.config import OptimizerConfig
from trainer.layout import Layout


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """accelerate keeps its state for the whole process: it is put back."""
    made = Accelerator(cpu=True)
    kept = [(state._shared_state, dict(state._shared_state)) for state in (PartialState, AcceleratorState)]
    yield scale_losses(made, first=1024.0, then=512.0)
    for state, before in kept:
        state.clear()
        state.update(before)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_step_is_clipped_by_the_norm_of_the_unscaled_gradient(accelerator: Accelerator, sharded: bool) -> None:
    """By hand: the gradient is (3, 4), its norm 5, and Adam's first step is as long as the rate in each number."""
    if sharded:
        shard()
    model = torch.nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    layout = Layout(accelerator, model, OptimizerConfig(learning_rate=0.125, weight_decay=0, max_grad_norm=1.0))
    layout.backward(model(torch.tensor([[3.0, 4.0]])).sum(), last=True)
    assert layout.step() == pytest.approx(5)
    assert not layout.step_was_skipped
    torch.testing.assert_close(model.weight.detach(), before - 0.125)
    moments = layout.optimizer_state()
    torch.testing.assert_close(moments["weight.exp_avg"], torch.tensor([[0.06, 0.08]]))  # a tenth of (3, 4) / 5
    layout.backward(model(torch.tensor([[float("inf"), 1.0]])).sum(), last=True)
    layout.step()
    assert layout.step_was_skipped
    assert accelerator.scaler.get_scale() == 512


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shards_in_fp16_give_the_numbers_of_one_process_through_an_overflow(tmp_path: Path, tiny_model: Path) -> None:
    """The first step overflows: the processes skip it together, lower the scale alike, and go on."""
    changes = {"run__mixed_precision": "fp16", "run__epochs": 2, "evaluation": None, "model__lora_rank": 3}
    with serve_in_background([Redness()]) as server:
        for name, processes, environment in (("one", 1, {}), ("sharded", 2, FSDP2)):
            config = write_config(tmp_path / name, tiny_model, server.target, **changes)
            here = {"PYTHONPATH": str(ROOT), **environment}
            finish_run(config, processes, here, [str(Path(__file__).with_name("fp16_on_cpus.py"))])
    for mine, theirs in zip(*(logged_metrics(tmp_path / name) for name in ("one", "sharded")), strict=True):
        assert theirs["global_step"] == mine["global_step"] == 2 * mine["epoch"] - 1
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-3)
    one, sharded = (tmp_path / name / "run/checkpoints/epoch-000002" for name in ("one", "sharded"))
    for folder in (one, sharded):
        assert json.loads((folder / "state.json").read_text())["loss_scale"]["scale"] == 2**14
    mine, theirs = (load_file(folder / "adapter.safetensors") for folder in (one, sharded))
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():  # half precision rounds gradients: to a tenth of a step of the optimizer
        torch.testing.assert_close(theirs[key], value, atol=1.5e-4, rtol=0)
    moved = [value.abs().max().item() for key, value in mine.items() if "_B" in key]
    assert max(moved) > 2e-3  # so that the tolerance says something
