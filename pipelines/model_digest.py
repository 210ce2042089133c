"""What identifies a model's weights: the content of its files."""

from pathlib import Path

from assay.files import digest_folder
from generators.text_to_image import find_lora, needed_lora

MODEL_FILES = ("**/*.safetensors", "**/*.bin", "**/*.model", "**/*.json", "**/*.txt", "**/*.jinja")


def digest_model(model: str, lora: str | None = None) -> str:
    """Digest of a model's folder, a LoRA's, and those of what it was trained on top of; of what is on the hub alone,
    its name there."""
    parts = [_digest(model)] if lora else [_digest(model), "None"]
    while lora is not None:
        parts.append(_digest(str(find_lora(lora))))
        lora = needed_lora(lora)
    return "+".join(parts)


def _digest(name: str) -> str:
    return digest_folder(Path(name), MODEL_FILES) if Path(name).is_dir() else name
