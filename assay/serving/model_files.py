"""For services on transformers: find a model's files, digest them, and load a model completely or not at all.

A detector with a few weights missing still answers, with near-zero scores that look like bad images: so a checkpoint
whose keys do not match the model's exactly is refused. Only safetensors files are read: loading runs no code from them.
The serving kit itself imports neither this module nor torch.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from assay.errors import AssayError
from assay.files import digest_folder

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*.jinja")
# Index tables that older releases of transformers saved and newer ones compute: published Swin and CLIP checkpoints
# hold them, and nothing is lost by not reading them.
_COMPUTED_KEYS = (r"\.relative_position_index$", r"\.position_ids$")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class ModelLoadError(AssayError, RuntimeError):
    """A model cannot be found, or not be loaded completely."""


def locate_model(name: str, revision: str | None = None) -> Path:
    """The folder with a model's files.

    Args:
        name: a folder, absolute or relative to the working directory or to the repository's root; or a name on the
            Hugging Face hub, whose files are downloaded once.
        revision: branch, tag or commit on the hub.
    """
    for candidate in (Path(name), REPOSITORY_ROOT / name):
        if candidate.is_dir():
            return candidate.resolve()
    if not _HUB_NAME.fullmatch(name):
        raise ModelLoadError(f"model {name!r}: no such folder, in the working directory or in {REPOSITORY_ROOT}")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_MODEL_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as problem:
        raise ModelLoadError(
            f"model {name!r}: no such folder, and it cannot be had from the Hugging Face hub: {problem}"
        ) from problem


def digest_model(folder: Path) -> str:
    """SHA-256 over the names and contents of a model's weights, configuration, preprocessor and tokenizer files."""
    return digest_folder(folder, _MODEL_FILES)


def load_complete(
    model_class: Any,
    folder: Path,
    device: str,
    allow_unexpected: Sequence[str] = (),
    *,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
) -> Any:
    """Load a transformers model for evaluation, on a device; every weight must come from the checkpoint.

    Args:
        model_class: a `PreTrainedModel` or Auto class.
        folder: its files.
        device: a torch device, or `auto`: the first CUDA device, else the CPU.
        allow_unexpected: regular expressions; checkpoint keys in which one is found may stay unused. Missing keys and
            keys of another shape are never allowed.
        dtype: of weights and arithmetic.
        attention: transformers' name of an implementation, e.g. `sdpa`; None takes the class's own choice.

    Raises:
        ModelLoadError: the checkpoint does not fit, or the attention is not to be had for this class.
    """
    try:
        model, report = model_class.from_pretrained(
            folder,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to be told their names and refuse them below
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=dtype,
            **({} if attention is None else {"attn_implementation": attention}),
        )
    except (OSError, RuntimeError, SafetensorError, ValueError, ImportError) as problem:
        raise ModelLoadError(f"{folder}: cannot be loaded as {model_class.__name__}: {problem}") from problem
    ignorable = (*_COMPUTED_KEYS, *allow_unexpected)
    unexpected = {key for key in report["unexpected_keys"] if not any(re.search(one, key) for one in ignorable)}
    faults = {
        "missing from the checkpoint": report["missing_keys"],
        "of another shape": report["mismatched_keys"],
        "in the checkpoint but not in the model": unexpected,
    }
    described = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in faults.items() if keys]
    if described:
        raise ModelLoadError(f"{folder}: weights do not fit {type(model).__name__}: {'; '.join(described)}")
    return model.eval().requires_grad_(False).to(resolve_device(device))


def load_image_processor(folder: Path) -> Any:
    """The image processor saved beside a model. Always the PIL one: torchvision's resizes differently."""
    return _load_beside_model(AutoImageProcessor, folder, "image processor", backend="pil")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer saved beside a model."""
    return _load_beside_model(AutoTokenizer, folder, "tokenizer")


def model_type_of(folder: Path) -> str:
    """The `model_type` that a model's configuration states."""
    return str(_load_beside_model(AutoConfig, folder, "config.json").model_type)


def resolve_device(device: str) -> torch.device:
    """The torch device of a name; `auto` is the first CUDA device if there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as problem:
        raise ModelLoadError(f"device {device!r} is unknown; allowed: auto, cpu, cuda, cuda:0, ...") from problem
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError(f"device {device!r}: this machine or this build of torch has no CUDA; allowed: auto, cpu")
    return resolved


def _load_beside_model(auto_class: Any, folder: Path, what: str, **options: Any) -> Any:
    try:
        return auto_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except (OSError, ValueError) as problem:
        raise ModelLoadError(f"{folder}: no usable {what}: {problem}") from problem


def _some(keys: Any, limit: int = 3) -> str:
    names = sorted(str(key) for key in keys)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
