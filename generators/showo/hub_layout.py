"""How Show-o's models lie on the hub: `config.json` beside `pytorch_model.safetensors` or `pytorch_model.bin`.

A half-loaded model draws nonsense without a word, so every tensor must be there, in its shape, and none besides. A
`.bin` file is a pickle: it is read by torch's restricted reader, which builds tensors and runs nothing.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self

import torch
from accelerate import init_empty_weights
from diffusers import ConfigMixin, ModelMixin
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from assay.errors import ConfigError

CONFIG_FILE = "config.json"
SAFETENSORS_FILE, PICKLE_FILE = "pytorch_model.safetensors", "pytorch_model.bin"


class HubModel(ModelMixin, ConfigMixin):
    """A model of diffusers' kind that is saved under the names that Show-o's repositories use."""

    config_name = CONFIG_FILE

    @classmethod
    def from_pretrained(cls, model: str | Path, *, dtype: torch.dtype = torch.float32) -> Self:
        """Load a folder, or a name on the hub, whose files are then downloaded. The model is in evaluation mode.

        Args:
            dtype: of the weights, whatever they are stored in.

        Raises:
            ConfigError: files are missing or broken, or hold the tensors of another model.
        """
        config, weights = _read_config(find_file(model, CONFIG_FILE)), find_weights(model)
        with init_empty_weights():  # the stored tensors take the parameters' place: nothing is initialised for nothing
            built = cls.from_config(config)
        stored = _read_weights(weights)
        _check_tensors(built.state_dict(), stored, weights)
        floats = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
        built.load_state_dict(floats, assign=True)
        return built.eval()

    def save_pretrained(self, save_directory: str | Path, values: Mapping[str, Tensor] | None = None) -> None:
        """Write configuration and weights to a folder; files of that name are replaced.

        Args:
            save_directory: the folder.
            values: of some parameters by name, instead of those in place.

        Raises:
            ConfigError: the model holds a LoRA, which changes its tensors' names.
        """
        if getattr(self, "_hf_peft_config_loaded", False):
            raise ConfigError("a model with a LoRA cannot be saved; save the LoRA, or fuse it first")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        state = {**self.state_dict(), **(values or {})}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        partial = folder / f".{SAFETENSORS_FILE}.partial"
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.replace(folder / SAFETENSORS_FILE)
        self.save_config(folder)


def find_file(model: str | Path, name: str) -> Path:
    """A file of a model: in its folder, or downloaded from the hub.

    Raises:
        ConfigError: it is not there.
    """
    if Path(model).is_dir():
        path = Path(model) / name
        if not path.is_file():
            raise ConfigError(f"model = {str(model)!r} cannot be loaded: there is no {name} in it")
        return path
    try:
        return Path(hf_hub_download(str(model), name))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model = {str(model)!r}: no such folder, and its {name} cannot be had from the Hugging Face hub: {error}"
        ) from error


def find_weights(model: str | Path) -> Path:
    """The weights of a model: safetensors where there are some, else the pickle.

    Raises:
        ConfigError: there are neither.
    """
    try:
        return find_file(model, SAFETENSORS_FILE)
    except ConfigError as error:
        try:
            return find_file(model, PICKLE_FILE)
        except ConfigError:
            raise error from None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    return config


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return stored


def _check_tensors(wanted: dict[str, Tensor], stored: dict[str, Tensor], path: Path) -> None:
    missing, unexpected = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
    if missing or unexpected:
        raise ConfigError(
            f"{path} holds the tensors of another model: {len(missing)} are missing {missing[:3]}, "
            f"{len(unexpected)} are not known {unexpected[:3]}"
        )
    for name, tensor in wanted.items():
        if stored[name].shape != tensor.shape:
            raise ConfigError(
                f"{path}: {name} has shape {tuple(stored[name].shape)}; its {CONFIG_FILE} says {tuple(tensor.shape)}"
            )
