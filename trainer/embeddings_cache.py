"""Each prompt is encoded once: kept in main memory, or, for large text encoders, in a folder before the run starts."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from assay.files import digest_file, write_whole
from generators.embeddings import PromptEmbeddings
from generators.opened import OpenedPipeline
from trainer.prompts import PromptTask

EMPTY = PromptTask("", None)


class PromptEncoder:
    """Encodes prompts, with their reference images.

    `negative` is the empty prompt that guidance pushes away from.

    Args:
        generator: has the text encoders.
        device: where embeddings are wanted.
        folder: keep embeddings in files of this folder instead of in memory; many runs of the same model may share it.
        model: identity of the text encoders, with what is fused into them, for the files' names.
        dtype: of the text encoders. Texts are kept in it, which loses nothing, and given out in float32.
    """

    def __init__(
        self,
        generator: OpenedPipeline,
        device: torch.device | str,
        folder: Path | None = None,
        model: str = "",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._generator, self._device, self._folder, self._model = generator, device, folder, model
        self._dtype = dtype
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[PromptTask, PromptEmbeddings] = {}
        self._files: dict[PromptTask, Path] = {}
        self.negative = self([EMPTY])

    def __call__(self, prompts: Sequence[PromptTask]) -> PromptEmbeddings:
        """Embeddings (batch) on the device."""
        found = {prompt: self._one(prompt) for prompt in dict.fromkeys(prompts)}
        together = PromptEmbeddings.concatenate([found[prompt] for prompt in prompts]).to(self._device)
        return _change_text(together, Tensor.float)

    def fill_folder(self, prompts: Sequence[PromptTask], accelerator: Accelerator) -> None:
        """Encode prompts into the folder, each process its share; those that are there already are left alone.

        A machine may have a folder of its own: what is missing in it, when all are done, its processes encode too.
        """
        distinct = list(dict.fromkeys(prompts))
        share = distinct[accelerator.process_index :: accelerator.num_processes]
        self._write_missing(share, show=accelerator.is_main_process)
        accelerator.wait_for_everyone()
        self._write_missing(distinct, show=accelerator.is_main_process)

    def _write_missing(self, prompts: Sequence[PromptTask], *, show: bool) -> None:
        missing = [prompt for prompt in prompts if not self._file(prompt).exists()]
        for prompt in tqdm(missing, desc="encoding prompts", unit="prompt", disable=not (show and missing)):
            self._write(prompt)

    def _one(self, prompt: PromptTask) -> PromptEmbeddings:
        if self._folder is None:
            if prompt not in self._known:
                self._known[prompt] = self._encode(prompt)
            return self._known[prompt]
        if not self._file(prompt).exists():
            self._write(prompt)
        return PromptEmbeddings(**dict.fromkeys(FIELDS) | load_file(self._file(prompt)))

    def _write(self, prompt: PromptTask) -> None:
        write_whole(self._file(prompt), save(_named(self._encode(prompt))))

    def _encode(self, prompt: PromptTask) -> PromptEmbeddings:
        references = [[Image.open(path).convert("RGB") for path in prompt.references]] if prompt.references else None
        encoded = self._generator.encode_prompts([prompt.prompt], references).to("cpu")
        return _change_text(encoded, lambda text: text.to(self._dtype))

    def _file(self, prompt: PromptTask) -> Path:
        assert self._folder is not None
        if prompt not in self._files:  # its references are read for the name
            self._files[prompt] = self._folder / f"{self._key(prompt)}.safetensors"
        return self._files[prompt]

    def _key(self, prompt: PromptTask) -> str:
        parts = [self._model, prompt.prompt, *(digest_file(path) for path in prompt.references)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


FIELDS = ("tokens", "pooled", "references", "reference_ids")


def _change_text(embeddings: PromptEmbeddings, change: Callable[[Tensor], Tensor]) -> PromptEmbeddings:
    """References stay as they are: the VAE computes in float32. So do ids, of a model that reads texts itself."""
    if not embeddings.tokens.is_floating_point():
        return embeddings
    pooled = None if embeddings.pooled is None else change(embeddings.pooled)
    return replace(embeddings, tokens=change(embeddings.tokens), pooled=pooled)


def _named(embeddings: PromptEmbeddings) -> dict[str, Tensor]:
    found = {name: getattr(embeddings, name) for name in FIELDS}
    return {name: value.contiguous() for name, value in found.items() if value is not None}
