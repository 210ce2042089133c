"""LoRA on a diffusers transformer: which layers get one, and saving it as diffusers loads it."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from assay.errors import ConfigError

#: The attention projections of blocks with two streams, one of text and one of image.
ATTENTION = (
    "attn.add_k_proj",
    "attn.add_q_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "attn.to_k",
    "attn.to_q",
    "attn.to_v",
    "attn.to_out.0",
)


def add_lora(transformer: Any, rank: int, alpha: int, targets: Sequence[str]) -> list[torch.nn.Parameter]:
    """Put a fresh LoRA on linear layers and return its parameters, in float32 whatever the layers' precision.

    Args:
        rank: of the update, at least 1.
        alpha: the update counts alpha / rank.
        targets: ends of the layers' names, such as "attn.to_q".

    Raises:
        ConfigError: a target names no linear layer.
    """
    names = [name for target in targets for name in _layers_named(transformer, target)]
    transformer.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=sorted(set(names)))
    )
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for parameter in parameters:
        # peft gives them the layer's precision; in bfloat16 an optimizer's small steps would be rounded away
        parameter.data = parameter.data.float()
    return parameters


def save_lora(pipeline_class: Any, transformer: Any, folder: Path, values: Mapping[str, Tensor] | None = None) -> None:
    """Save in diffusers' format: `pipe.load_lora_weights(folder)` reads it. Replaces the folder as a whole.

    Args:
        values: of the LoRA's parameters by name; None for those in place.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline_class.save_lora_weights(
        partial,
        transformer_lora_layers=get_peft_model_state_dict(transformer, values),
        transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
    )
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _layers_named(transformer: Any, target: str) -> list[str]:
    """The target itself where it ends the names of linear layers alone, else the full names of those layers."""
    matching = {
        name: isinstance(module, (torch.nn.Linear, BaseTunerLayer))
        for name, module in transformer.named_modules()
        if name == target or name.endswith(f".{target}")
    }
    layers = [name for name, is_linear in matching.items() if is_linear]
    if not layers:
        linear = {name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)}
        ends = sorted({".".join(part for part in name.split(".")[-3:] if not part.isdigit()) for name in linear})
        raise ConfigError(f"lora target {target!r} names no linear layer; allowed: ends of names such as {ends}")
    return [target] if len(layers) == len(matching) else layers
