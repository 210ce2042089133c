"""Any diffusers text-to-image pipeline, with or without a LoRA, as something that makes images from prompts and seeds.

Show-o, which diffusers does not have, comes as a pipeline of its own. For sampling only: what is trained is a
`TrainableGenerator`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from assay.errors import ConfigError
from generators.model_index import read_model_index
from generators.showo.pipeline import ShowoPipeline

LORA_FILE = "pytorch_lora_weights.safetensors"
#: Beside a LoRA that was trained on top of another.
NEEDS_FILE = "needs.json"
#: `_class_name` of a model's `model_index.json` -> the pipeline, where it is none of diffusers' own.
OWN_PIPELINES: dict[str, Any] = {"ShowoPipeline": ShowoPipeline}


class TextToImage:
    """A pipeline with the settings of one run.

    Args:
        pipeline: any that takes `prompt` and `generator` and returns `images`.
        settings: further arguments of its call: num_inference_steps, guidance_scale, height, width, ...; those that
            are None are left to the pipeline.
    """

    def __init__(self, pipeline: DiffusionPipeline, settings: dict[str, Any]) -> None:
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline
        self._settings = {name: value for name, value in settings.items() if value is not None}

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], **further: Any) -> list[Image.Image]:
        """One image for each prompt, in one pass.

        Args:
            prompts: texts.
            seeds: of the noise, one for each.
            further: arguments of the pipeline's call, for this pass alone.

        Raises:
            ArithmeticError: an image is not finite.
        """
        # Noise is drawn on the CPU, so that it is the same on every device.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        arguments = {**self._settings, **further}
        images = self.pipeline(prompt=list(prompts), generator=generators, output_type="np", **arguments).images
        if not np.isfinite(images).all():
            raise ArithmeticError("a generated image is not finite: the precision overflows, or the weights are broken")
        return [Image.fromarray(pixels) for pixels in (images * 255).round().astype(np.uint8)]


def load_pipeline(model: str, device: str, dtype: torch.dtype, lora: str | None = None) -> DiffusionPipeline:
    """Load a pipeline of any class, and a LoRA onto it.

    Args:
        model: folder in the hub's layout, or a name on the hub.
        device: torch device.
        dtype: of the weights.
        lora: see `find_lora`; a name on the hub is taken too.

    Raises:
        ConfigError: the model cannot be found, or the LoRA is none or that of another model.
    """
    pipeline_class = OWN_PIPELINES.get(read_model_index(model).get("_class_name", ""), DiffusionPipeline)
    try:
        pipeline = pipeline_class.from_pretrained(model, dtype=dtype, **absent_components(model))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model = {model!r} cannot be loaded: {error}") from error
    if lora is not None:
        load_lora(pipeline, model, lora)
    return pipeline.to(device)


def locate_model(model: str | None) -> str | None:
    """The folder of a model: a folder, or a name on the hub, whose files are then downloaded; None stays None.

    Raises:
        ConfigError: it is neither.
    """
    if model is None or Path(model).is_dir():
        return model
    try:
        return str(DiffusionPipeline.download(model))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model = {model!r}: no such folder, and it cannot be had from the Hugging Face hub: {error}"
        ) from error


def absent_components(model: str | Path) -> dict[str, None]:
    """Components that a folder's `model_index.json` leaves out (a T5, say): `from_pretrained` wants to be told."""
    named = read_model_index(model)
    return {name: None for name, value in named.items() if isinstance(value, list) and not any(value)}


def find_lora(path: str) -> Path | str:
    """The folder with the LoRA's file: `path` itself, or the folder `lora` in it, as training runs and their
    checkpoints have it. What is no folder is taken for a name on the hub.

    Raises:
        ConfigError: a folder without a LoRA.
    """
    for folder in (Path(path), Path(path) / "lora"):
        if (folder / LORA_FILE).is_file():
            return folder
    if Path(path).exists():
        raise ConfigError(f"lora = {path!r} holds no LoRA: there is neither {LORA_FILE} nor lora/{LORA_FILE} in it")
    return path


def needed_lora(lora: str) -> str | None:
    """The LoRA that this one was trained on top of, as its `needs.json` says; None where there is none.

    Raises:
        ConfigError: `needs.json` cannot be read, or names what is not there.
    """
    file = Path(find_lora(lora)) / NEEDS_FILE
    if not file.is_file():
        return None
    try:
        first = str(json.loads(file.read_text())["fuse_first"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} does not say what the LoRA was trained on top of: {error}") from error
    if Path(first).is_absolute() and not Path(first).exists():
        raise ConfigError(f"{file}: fuse_first = {first!r}: there is no such folder")
    return first


def load_lora(pipeline: DiffusionPipeline, model: str, lora: str) -> None:
    """Load a LoRA (see `find_lora`; a name on the hub is taken too) onto a pipeline, `model` in messages. What it was
    trained on top of is merged into the weights first.

    Raises:
        ConfigError: it is none, or that of another model; or what it needs is.
    """
    if (first := needed_lora(lora)) is not None:
        load_lora(pipeline, model, first)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    before = _num_lora_weights(pipeline)
    try:
        pipeline.load_lora_weights(find_lora(lora))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ConfigError(f"lora = {lora!r} does not fit model = {model!r}: {_first_line(error)}") from error
    if not pipeline.get_active_adapters():
        raise ConfigError(f"lora = {lora!r} does not fit model = {model!r}: none of its weights belongs to the model")
    if hasattr(pipeline, "transformer"):
        # diffusers leaves out, with a warning, what has no layer to go to
        names = pipeline.lora_state_dict(find_lora(lora))
        wanted = sum(name.startswith("transformer.") and ".lora_" in name for name in names)
        loaded = _num_lora_weights(pipeline) - before
        if loaded < wanted:
            raise ConfigError(
                f"lora = {lora!r} does not fit model = {model!r}: {wanted - loaded} of its {wanted} weights belong to "
                "no layer of the model"
            )


def _num_lora_weights(pipeline: DiffusionPipeline) -> int:
    transformer = getattr(pipeline, "transformer", None)
    return 0 if transformer is None else sum(".lora_" in name for name, _ in transformer.named_parameters())


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
