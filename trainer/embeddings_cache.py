"""Each prompt is encoded once: kept in main memory, or, for large text encoders, in a folder before the run starts."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from assay.files import digest_file, write_whole
from generators.embeddings import PromptEmbeddings
from generators.trainable import TrainableGenerator
from trainer.prompts import PromptTask

EMPTY = PromptTask("", None)


class PromptEncoder:
    """Encodes prompts, with their reference images.

    `negative` is the empty prompt that guidance pushes away from.

    Args:
        generator: has the text encoders.
        device: where embeddings are wanted.
        folder: keep embeddings in files of this folder instead of in memory; many runs of the same model may share it.
        model: identity of the text encoders, for the files' names.
    """

    def __init__(
        self, generator: TrainableGenerator, device: torch.device | str, folder: Path | None = None, model: str = ""
    ) -> None:
        self._generator, self._device, self._folder, self._model = generator, device, folder, model
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[PromptTask, PromptEmbeddings] = {}
        self.negative = self([EMPTY])

    def __call__(self, prompts: Sequence[PromptTask]) -> PromptEmbeddings:
        """Embeddings (batch) on the device."""
        return PromptEmbeddings.concatenate([self._one(prompt) for prompt in prompts]).to(self._device)

    def fill_folder(self, prompts: Sequence[PromptTask], *, process: int = 0, num_processes: int = 1) -> None:
        """Encode this process's share of the prompts into the folder; those that are there already are left alone."""
        distinct = list(dict.fromkeys(prompts))[process::num_processes]
        for prompt in tqdm(distinct, desc="encoding prompts", unit="prompt", disable=process > 0):
            self._one(prompt)

    def _one(self, prompt: PromptTask) -> PromptEmbeddings:
        if self._folder is None:
            if prompt not in self._known:
                self._known[prompt] = self._encode(prompt)
            return self._known[prompt]
        file = self._folder / f"{self._key(prompt)}.safetensors"
        if not file.exists():
            write_whole(file, save(_named(self._encode(prompt))))
        return PromptEmbeddings(**dict.fromkeys(FIELDS) | load_file(file))

    def _encode(self, prompt: PromptTask) -> PromptEmbeddings:
        references = [[Image.open(path).convert("RGB") for path in prompt.references]] if prompt.references else None
        return self._generator.encode_prompts([prompt.prompt], references).to("cpu")

    def _key(self, prompt: PromptTask) -> str:
        parts = [self._model, prompt.prompt, *(digest_file(path) for path in prompt.references)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


FIELDS = ("tokens", "pooled", "references", "reference_ids")


def _named(embeddings: PromptEmbeddings) -> dict[str, Tensor]:
    found = {name: getattr(embeddings, name) for name in FIELDS}
    return {name: value.contiguous() for name, value in found.items() if value is not None}
