"""Checkpoints from which a killed run goes on to the same numbers.

A checkpoint is a folder `checkpoints/epoch-000012` with safetensors of what is trained, its copies (the average, an
older or a reference policy) and the optimizer's moments, a `state.json` with the counters, and what others load: the
LoRA in diffusers' format (`lora/`), or the whole model (`model/`). Tensors are whole, however the run lay on its
processes (`trainer.layout`), so it may go on on another number of them. All randomness of training is derived from the
run's seed and these counters, so there is no generator state to keep. A folder is written under a temporary name and
renamed when complete: one that has its final name is whole.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.gathering import fill, whole
from trainer.layout import Layout
from trainer.policy_copy import PolicyCopy

KEPT = 2


def gather_tensors(layout: Layout, copies: Mapping[str, PolicyCopy]) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds, by file and name. Every process must call it."""
    adapter = {name: whole(parameter) for name, parameter in layout.parameters.items()}
    return {
        "adapter": adapter,
        "optimizer": layout.optimizer_state(),
        **{name: dict(zip(adapter, map(whole, copy.values), strict=True)) for name, copy in copies.items()},
    }


def put_tensors(tensors: Mapping[str, dict[str, Tensor]], layout: Layout, copies: Mapping[str, PolicyCopy]) -> None:
    """Put what `gather_tensors` gave in place. Every process must call it."""
    layout.load(tensors["adapter"], tensors["optimizer"])
    for copy_name, copy in copies.items():
        for name, value in zip(layout.parameters, copy.values, strict=True):
            fill(value, tensors[copy_name][name])


def save_checkpoint(
    root: Path,
    *,
    epoch: int,
    tensors: Mapping[str, dict[str, Tensor]],
    state: dict[str, Any],
    result: Path,
) -> Path:
    """Write the checkpoint taken after `epoch` epochs, and drop all but the newest two.

    Args:
        root: folder of the run's checkpoints.
        epoch: number of finished epochs.
        tensors: by file and name.
        state: counters, as JSON.
        result: folder `lora` or `model`, of which the checkpoint gets a copy: it can be loaded as it is.
    """
    final = root / f"epoch-{epoch:06d}"
    partial = root / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed while it wrote
    partial.mkdir(parents=True)
    for name, named in tensors.items():
        save_file(named, partial / f"{name}.safetensors")
    shutil.copytree(result, partial / result.name)
    (partial / "state.json").write_text(json.dumps({**state, "epoch": epoch}, indent=1))
    _remove(final)
    partial.rename(final)
    for old in sorted(root.glob("epoch-*"))[:-KEPT]:
        _remove(old)
    return final


def newest_checkpoint(root: Path) -> Path | None:
    """The newest complete checkpoint; leftovers of a write that was cut off are ignored."""
    return max(root.glob("epoch-*"), default=None)


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """A checkpoint's tensors, by file and name, and its state."""
    tensors = {file.stem: load_file(file) for file in sorted(folder.glob("*.safetensors"))}
    return tensors, json.loads((folder / "state.json").read_text())


def _remove(folder: Path) -> None:
    """Delete a checkpoint; it loses its final name first, so that a half-deleted one is never taken."""
    if folder.exists():
        doomed = folder.with_name(".doomed")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)
