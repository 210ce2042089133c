"""The model to train, whole and with its processor, and which of its weights are trained."""

from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForImageTextToText

from assay.errors import ConfigError
from assay.serving.model_files import load_complete, locate_model
from assay.vision_language.chat_processor import load_processor
from assay.vision_language.vision_language_model import DTYPES
from trainer.vlm.config import FineTuningConfig


def load_model(config: FineTuningConfig) -> tuple[Any, Any]:
    """The model and its processor. What will be trained is in float32, what lies below a LoRA in `dtype`.

    Raises:
        ModelLoadError: it cannot be found, or not be loaded completely.
    """
    folder = locate_model(config.model, config.revision)
    processor = load_processor(folder)
    dtype = DTYPES[config.dtype] if config.lora is not None else torch.float32
    model = load_complete(AutoModelForImageTextToText, folder, "cpu", dtype=dtype, attention=config.attention)
    model.requires_grad_(True)
    if config.freeze_vision:
        tower = vision_tower(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not is_within(tower, name))
    return model, processor


def vision_tower(model: Any) -> str:
    """The name of the module that looks at pictures.

    Raises:
        ConfigError: the class has none that can be told apart.
    """
    encoder = model.get_encoder(modality="image")
    name = next((name for name, module in model.named_modules() if module is encoder), "")
    if not name:
        raise ConfigError(
            f"{type(model).__name__} has no vision tower that can be told apart; allowed: neither freeze_vision nor "
            "vision_learning_rate"
        )
    return str(name)


def is_within(module: str, parameter: str) -> bool:
    """Whether a parameter is of a module, also where adapters have put names before and after."""
    return f".{module}." in f".{parameter}"


def lora_config(config: FineTuningConfig, model: Any) -> LoraConfig | None:
    """In peft's words; None where the whole model is trained."""
    if config.lora is None:
        return None
    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules="all-linear" if config.lora.targets is None else list(config.lora.targets),
        exclude_modules=rf".*{vision_tower(model)}\..*" if config.freeze_vision else None,
        task_type="CAUSAL_LM",
    )
