"""Checkpoints from which a killed run goes on to the same numbers.

A checkpoint is a folder `checkpoints/epoch-000012` with safetensors of the adapter, its copies (the average, an older
or a reference policy) and the optimizer's moments, a `state.json` with the counters, and the LoRA in diffusers' format
(`lora/`). All randomness of training is derived from the run's seed and these counters, so there is no generator state
to keep. A folder is written under a temporary name and renamed when complete: one that has its final name is whole.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.policy_copy import PolicyCopy

KEPT = 2


def save_checkpoint(
    root: Path,
    *,
    epoch: int,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    copies: dict[str, PolicyCopy],
    state: dict[str, Any],
    lora: Path,
) -> Path:
    """Write the checkpoint taken after `epoch` epochs, and drop all but the newest two.

    Args:
        root: folder of the run's checkpoints.
        epoch: number of finished epochs.
        parameters: trained parameters by name.
        optimizer: over the same parameters in the same order.
        copies: further values of the same parameters, by name.
        state: counters, as JSON.
        lora: folder of the LoRA in diffusers' format, of which the checkpoint gets a copy: it can be loaded as it is.
    """
    final = root / f"epoch-{epoch:06d}"
    partial = root / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed while it wrote
    partial.mkdir(parents=True)
    save_file({name: p.detach().cpu().contiguous() for name, p in parameters.items()}, partial / "adapter.safetensors")
    save_file(_moments(parameters, optimizer), partial / "optimizer.safetensors")
    for copy_name, copy in copies.items():
        values = dict(zip(parameters, copy.values, strict=True))
        save_file(
            {name: value.cpu().contiguous() for name, value in values.items()}, partial / f"{copy_name}.safetensors"
        )
    shutil.copytree(lora, partial / "lora")
    (partial / "state.json").write_text(json.dumps({**state, "epoch": epoch}, indent=1))
    _remove(final)
    partial.rename(final)
    for old in sorted(root.glob("epoch-*"))[:-KEPT]:
        _remove(old)
    return final


def newest_checkpoint(root: Path) -> Path | None:
    """The newest complete checkpoint; leftovers of a write that was cut off are ignored."""
    return max(root.glob("epoch-*"), default=None)


def load_checkpoint(
    folder: Path,
    *,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    copies: dict[str, PolicyCopy],
) -> dict[str, Any]:
    """Put a checkpoint's numbers in place and return its state."""
    _copy(load_file(folder / "adapter.safetensors"), parameters)
    for copy_name, copy in copies.items():
        _copy(load_file(folder / f"{copy_name}.safetensors"), dict(zip(parameters, copy.values, strict=True)))
    moments = load_file(folder / "optimizer.safetensors")
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {
            key: moments[f"{name}.{key}"].to(parameter.device if key != "step" else "cpu")
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"{name}.{key}" in moments
        }
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return state


def _remove(folder: Path) -> None:
    """Delete a checkpoint; it loses its final name first, so that a half-deleted one is never taken."""
    if folder.exists():
        doomed = folder.with_name(".doomed")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)


def _moments(parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Any]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
