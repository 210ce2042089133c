"""From the images of a request to arrays: read once, measured by their headers, decoded off the event loop.

Raw pixels are only viewed, which costs nothing, and stay on the loop. Files are measured and decoded in a thread
pool. A bad image fails its item and no other.
"""

import asyncio
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from PIL.Image import DecompressionBombWarning

from assay.images import BadImageError, RgbArray, SizeLimits, decode, peek_size, rgb_from_bytes
from assay.outcomes import Failed
from assay.serving.scorer import Limits
from assay.v1 import reward_service_pb2 as pb
from assay.wire import FORMAT_NAMES

# Process-wide and for good: a filter that is switched on and off is not safe among threads.
warnings.simplefilter("error", DecompressionBombWarning)

MAX_IMAGES_PER_ITEM = 16
T = TypeVar("T")


@dataclass(frozen=True)
class ReceivedImage:
    """One image as it came: `format` is empty for raw pixels, whose width and height were sent along."""

    format: str
    width: int
    height: int
    data: bytes

    @property
    def is_raw(self) -> bool:
        return not self.format


def read_images(item: pb.ScoreItem) -> tuple[ReceivedImage, ...] | Failed:
    """Take an item's images out of the message; each access to its bytes would copy them again."""
    if not item.images:
        return Failed("INVALID_ARGUMENT", "IMAGE_MISSING", "the item has no image")
    if len(item.images) > MAX_IMAGES_PER_ITEM:
        message = f"the item has {len(item.images)} images; at most {MAX_IMAGES_PER_ITEM} are allowed"
        return Failed("INVALID_ARGUMENT", "TOO_MANY_IMAGES", message)
    images = []
    for image in item.images:
        content = image.WhichOneof("content")
        if content == "rgb":
            images.append(ReceivedImage("", image.rgb.width, image.rgb.height, image.rgb.rgb8))
        elif content == "encoded":
            image_format = FORMAT_NAMES.get(image.encoded.format, "unspecified")
            images.append(ReceivedImage(image_format, 0, 0, image.encoded.data))
        else:
            return Failed("INVALID_ARGUMENT", "IMAGE_MISSING", "an image has neither rgb nor encoded content")
    return tuple(images)


class ImageDecoder:
    """Decodes for one server, in a pool of its own."""

    def __init__(self, num_threads: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="assay-decode")

    async def measure(self, items: Sequence[tuple[ReceivedImage, ...] | Failed], limits: Limits) -> list[int | Failed]:
        """Pixels of each item, from headers alone."""
        sizes = size_limits(limits)
        if all(_is_light(item) for item in items):
            return [_measure(item, sizes) for item in items]
        return await self.run(lambda: [_measure(item, sizes) for item in items])

    async def decode(
        self, items: Sequence[tuple[ReceivedImage, ...] | Failed], limits: Limits
    ) -> list[tuple[RgbArray, ...] | Failed]:
        """The arrays of each item, items side by side."""
        sizes, loop = size_limits(limits), asyncio.get_running_loop()

        async def one(item: tuple[ReceivedImage, ...] | Failed) -> tuple[RgbArray, ...] | Failed:
            if _is_light(item):
                return _decode(item, sizes)
            return await loop.run_in_executor(self._pool, _decode, item, sizes)

        if all(_is_light(item) for item in items):
            return [_decode(item, sizes) for item in items]
        return await asyncio.gather(*(one(item) for item in items))

    async def run(self, function: Callable[[], T]) -> T:
        """Whatever else is to be done with pixels off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def size_limits(limits: Limits) -> SizeLimits:
    """The part of a scorer's limits that single images must keep."""
    return SizeLimits(limits.min_image_side, limits.max_image_side, limits.max_pixels_per_image)


def _is_light(item: tuple[ReceivedImage, ...] | Failed) -> bool:
    return isinstance(item, Failed) or all(image.is_raw for image in item)


def _measure(item: tuple[ReceivedImage, ...] | Failed, limits: SizeLimits) -> int | Failed:
    if isinstance(item, Failed):
        return item
    pixels = 0
    try:
        for image in item:
            if image.is_raw:
                width, height = image.width, image.height
                rgb_from_bytes(image.data, width, height, limits)
            else:
                width, height = peek_size(image.data, image.format, limits)
            pixels += width * height
    except BadImageError as error:
        return Failed("INVALID_ARGUMENT", error.reason, str(error))
    return pixels


def _decode(item: tuple[ReceivedImage, ...] | Failed, limits: SizeLimits) -> tuple[RgbArray, ...] | Failed:
    if isinstance(item, Failed):
        return item
    try:
        return tuple(_decode_image(image, limits) for image in item)
    except BadImageError as error:
        return Failed("INVALID_ARGUMENT", error.reason, str(error))


def _decode_image(image: ReceivedImage, limits: SizeLimits) -> RgbArray:
    if image.is_raw:
        return rgb_from_bytes(image.data, image.width, image.height, limits)
    return decode(image.data, image.format, limits)
