"""Makes a prompt's images with a diffusers model, in GenEval's own layout: `samples/0000.png` ..., `metadata.jsonl`."""

import json
from dataclasses import dataclass
from typing import Any

from generators.precision import Precision, weights_dtype
from generators.text_to_image import TextToImage, load_pipeline
from pipelines.engine.stage import UnitError, Workplace
from pipelines.engine.unit import Unit

STAGE = "images"


class PromptImageWorker:
    """Keeps a model loaded.

    Args:
        model: with the run's settings.
        batch_size: images made in one pass.
    """

    def __init__(self, model: TextToImage, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size

    def run(self, unit: Unit, workplace: Workplace) -> None:
        if unit.locations["problem"]:
            raise UnitError(unit.locations["problem"])
        samples = workplace.folder / "samples"
        samples.mkdir()
        number, prompt = unit.inputs["num_images"], unit.inputs["metadata"]["prompt"]
        for start in range(0, number, self._batch_size):
            part = range(start, min(start + self._batch_size, number))
            images = self._model.generate([prompt] * len(part), [unit.seed(unit.inputs["seed"], k) for k in part])
            for k, image in zip(part, images, strict=True):
                image.save(samples / f"{k:04d}.png")
        (workplace.folder / "metadata.jsonl").write_text(json.dumps(unit.inputs["metadata"]) + "\n")


@dataclass(frozen=True)
class LoadPromptImageWorker:
    """Makes a worker on a device, in whatever process. Arguments as in `EvaluateSettings`."""

    model: str
    lora: str | None
    settings: dict[str, Any]
    batch_size: int
    dtype: Precision

    def __call__(self, device: str) -> PromptImageWorker:
        pipeline = load_pipeline(self.model, device, weights_dtype(self.dtype), self.lora)
        return PromptImageWorker(TextToImage(pipeline, self.settings), self.batch_size)
