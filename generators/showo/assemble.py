"""Put a Show-o together from its three repositories: one folder that `assay` loads like any other model.

    python -m generators.showo.assemble --output checkpoints/show-o
    python -m generators.showo.assemble --transformer showlab/show-o-512x512 --output checkpoints/show-o-512

Each part is a name on the hub, whose files are downloaded into the folder, or a folder here, whose files are copied.
"""

import argparse
import json
import shutil
from pathlib import Path

from huggingface_hub import snapshot_download

from assay.errors import ConfigError
from generators.showo.hub_layout import CONFIG_FILE, PICKLE_FILE, SAFETENSORS_FILE
from generators.showo.pipeline import ShowoPipeline

SOURCES_FILE = "sources.json"
MODEL_FILES = [CONFIG_FILE, SAFETENSORS_FILE]
TOKENIZER_FILES = ["tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"]


def assemble(output: Path, transformer: str, vq_model: str, tokenizer: str, max_sequence_length: int) -> None:
    """Fill `output`. What is there already is not downloaded again.

    Raises:
        ConfigError: a part is neither a folder nor on the hub, or holds no weights; or `output` holds parts of others.
    """
    _claim(output, {"transformer": transformer, "vq_model": vq_model, "tokenizer": tokenizer})
    for source, name in ((transformer, "transformer"), (vq_model, "vq_model")):
        _fetch(source, output / name, MODEL_FILES)
        if not (output / name / SAFETENSORS_FILE).is_file():
            _fetch(source, output / name, [PICKLE_FILE])
            if not (output / name / PICKLE_FILE).is_file():
                raise ConfigError(f"{name} = {source!r} holds neither {SAFETENSORS_FILE} nor {PICKLE_FILE}")
    _fetch(tokenizer, output / "tokenizer", TOKENIZER_FILES)
    index = {"_class_name": ShowoPipeline.__name__, "max_sequence_length": max_sequence_length}
    (output / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _claim(output: Path, sources: dict[str, str]) -> None:
    """Write down what the folder is made of, or check that it is made of that: weights of two sources must not mix."""
    record = output / SOURCES_FILE
    if record.is_file():
        others = json.loads(record.read_text())
        for name, source in sources.items():
            if others.get(name) != source and (output / name).exists():
                raise ConfigError(f"{output} was made of {name} = {others.get(name)!r}, not {source!r}: choose another")
    elif any((output / name).exists() for name in sources):
        raise ConfigError(f"{output} holds a model, and does not say of what it was made: choose another")
    output.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(sources, indent=2) + "\n")


def _fetch(source: str, folder: Path, patterns: list[str]) -> None:
    if Path(source).is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for path in (path for pattern in patterns for path in Path(source).glob(pattern)):
            shutil.copy(path, folder)
        return
    try:
        snapshot_download(source, allow_patterns=patterns, local_dir=folder)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{source!r}: no such folder, and it cannot be had from the Hugging Face hub: {error}"
        ) from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--transformer", default="showlab/show-o")
    parser.add_argument("--vq-model", default="showlab/magvitv2")
    parser.add_argument("--tokenizer", default="microsoft/phi-1_5")
    parser.add_argument("--max-sequence-length", type=int, default=128, help="tokens of a text")
    args = parser.parse_args()
    assemble(args.output, args.transformer, args.vq_model, args.tokenizer, args.max_sequence_length)
    print(f"{args.output} holds a {ShowoPipeline.__name__}")


if __name__ == "__main__":
    main()
