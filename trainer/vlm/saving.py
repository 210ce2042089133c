"""The result of a run: a folder as on the hub, whole or not there."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from assay.files import write_whole
from trainer.vlm.loading import DTYPES


def save_result(trainer: Any, folder: Path, dtype: str | None) -> None:
    """Write the model with its processor, or the adapter. Every process must call it.

    Args:
        trainer: of transformers.
        folder: that will hold it; what is there is replaced.
        dtype: of the weights; None leaves them as they are.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    if trainer.accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(partial))
    trainer.accelerator.wait_for_everyone()
    if not trainer.accelerator.is_main_process:
        return
    (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle, of no use to whoever loads the model
    if dtype is not None:
        cast_weights(partial, dtype)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def cast_weights(folder: Path, dtype: str) -> None:
    """Write the weights of a model's folder again in another precision.

    Args:
        folder: with safetensors files and a `config.json`.
        dtype: key of `DTYPES`.
    """
    for path in sorted(folder.glob("*.safetensors")):
        tensors = {name: value.to(DTYPES[dtype]).contiguous() for name, value in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    write_whole(folder / "config.json", json.dumps(_with_dtype(config, dtype), indent=2) + "\n")


def _with_dtype(config: Any, dtype: str) -> Any:
    """Also in the configurations of its parts."""
    if not isinstance(config, dict):
        return config
    return {key: dtype if key == "dtype" else _with_dtype(value, dtype) for key, value in config.items()}
