"""Candidates that are kept, so that the next verifier chooses among the same without their being drawn again."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from assay.files import write_whole
from generators.text_to_image import TextToImage


class KeptCandidates:
    """Draws what is not in a folder yet, and takes the rest from there.

    Args:
        model: draws.
        folder: of the images, in files named by a hash of all that decides them; runs may share it.
        drawn_by: what decides them besides prompt and seed: digest of the weights, precision, the sampler's settings.
    """

    def __init__(self, model: TextToImage, folder: Path, drawn_by: Mapping[str, Any]) -> None:
        self._model = model
        self._folder = folder
        self._drawn_by = json.dumps(drawn_by, sort_keys=True)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """One image for each prompt and seed; what is missing is drawn in one pass."""
        self._folder.mkdir(parents=True, exist_ok=True)
        paths = [self._path(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        if missing := [row for row, path in enumerate(paths) if not path.exists()]:
            drawn = self._model.generate([prompts[row] for row in missing], [seeds[row] for row in missing])
            for row, image in zip(missing, drawn, strict=True):
                _write(image, paths[row])
        return [_read(path) for path in paths]

    def _path(self, prompt: str, seed: int) -> Path:
        identity = json.dumps([self._drawn_by, prompt, seed])
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.png"


def _write(image: Image.Image, path: Path) -> None:
    file = io.BytesIO()
    image.save(file, "PNG")
    write_whole(path, file.getvalue())


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
