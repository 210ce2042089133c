"""What identifies a model's weights: the content of its files."""

from pathlib import Path

from assay.files import digest_folder
from generators.text_to_image import find_lora

MODEL_FILES = ("**/*.safetensors", "**/*.bin", "**/*.model", "**/*.json", "**/*.txt", "**/*.jinja")


def digest_model(model: str, lora: str | None = None) -> str:
    """Digest of a model's folder and a LoRA's; of what is on the hub alone, its name there."""
    parts = []
    for name in (model, find_lora(lora) if lora else None):
        is_local = name is not None and Path(name).is_dir()
        parts.append(digest_folder(Path(str(name)), MODEL_FILES) if is_local else str(name))
    return "+".join(parts)
