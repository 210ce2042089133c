"""A sample's images, made with FLUX.2 klein: one for each instruction, all on the sample's references."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from generators.flux2_klein import Flux2KleinGenerator, load_pipeline
from generators.precision import Precision, weights_dtype
from pipelines.engine.stage import InvalidOutputError, UnitError, Workplace
from pipelines.engine.unit import Unit


class ImageWorker:
    """Keeps a generator loaded, and makes `img_0.png`, `img_1.png`, ... of a unit's instructions.

    Args:
        generator: with the run's settings.
        batch_size: instructions rendered in one pass.
    """

    def __init__(self, generator: Flux2KleinGenerator, batch_size: int) -> None:
        self._generator = generator
        self._batch_size = batch_size

    def run(self, unit: Unit, workplace: Workplace) -> None:
        instructions = unit.inputs["instructions"]
        if not instructions:
            workplace.log.info("no instructions, so no images")
            return
        references = [open_reference(unit, index) for index in range(len(unit.locations["references"]))]
        for start in range(0, len(instructions), self._batch_size):
            part = range(start, min(start + self._batch_size, len(instructions)))
            seeds = [unit.seed(unit.inputs["seed"], k) for k in part]
            try:
                images = self._generator.generate([instructions[k] for k in part], references, seeds)
            except ValueError as error:
                raise UnitError(f"the pipeline refuses this sample: {error}") from error
            for k, image in zip(part, images, strict=True):
                image.save(workplace.folder / f"img_{k}.png")
                workplace.log.info("img_%d.png: %s", k, instructions[k])


def open_reference(unit: Unit, index: int) -> Image.Image:
    """The unit's reference at `index`, upright and in RGB.

    Raises:
        UnitError: it is missing, or is not an image.
    """
    written, path = unit.locations["image_paths"][index], unit.locations["references"][index]
    try:
        return ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except FileNotFoundError as error:
        raise UnitError(f"image_paths[{index}] = {written!r}: there is no {path}") from error
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise UnitError(f"image_paths[{index}] = {written!r}: not an image that can be read: {error}") from error


def check_images(unit: Unit, folder: Path) -> None:
    """There is an image for each instruction, of the size that was asked for, and each can be read to its end."""
    wanted = unit.inputs["width"], unit.inputs["height"]
    for k in range(len(unit.inputs["instructions"])):
        try:
            with Image.open(folder / f"img_{k}.png") as image:
                image.load()
        except OSError as error:
            raise InvalidOutputError(f"img_{k}.png cannot be read: {error}") from error
        if any(side not in (None, got) for side, got in zip(wanted, image.size, strict=True)):
            raise InvalidOutputError(f"img_{k}.png has {image.size} pixels, not {wanted}")


@dataclass(frozen=True)
class LoadImageWorker:
    """Makes a worker on a device, in whatever process. Arguments as in `GenerateSettings`."""

    checkpoint: Path
    num_inference_steps: int
    height: int | None
    width: int | None
    guidance_scale: float
    batch_size: int
    dtype: Precision

    def __call__(self, device: str) -> ImageWorker:
        generator = Flux2KleinGenerator(
            load_pipeline(self.checkpoint, device, weights_dtype(self.dtype)),
            num_inference_steps=self.num_inference_steps,
            height=self.height,
            width=self.width,
            guidance_scale=self.guidance_scale,
        )
        return ImageWorker(generator, self.batch_size)
