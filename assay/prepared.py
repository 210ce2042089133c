"""What a client sends: items taken from the user's images, prompts and tasks, and their division into calls.

Pixels are copied at once, so that the user may overwrite a buffer after `submit`; messages are built only when they
are about to be sent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.errors import InvalidRequestError
from assay.images import encode, sniff_format, to_rgb8
from assay.serving.scorer import Limits
from assay.tasks import GenEvalTask, Task
from assay.v1 import reward_service_pb2 as pb
from assay.wire import FORMATS, set_task

ENCODINGS = ("rgb", "png", "webp", "jpeg")


@dataclass(frozen=True)
class PreparedImage:
    """Pixels (width and height known), or the bytes of an image file (both 0)."""

    data: bytes
    width: int = 0
    height: int = 0

    @property
    def pixels(self) -> int:
        """Pixels; for a file, whose size is not looked up, its bytes: a fair guess for balancing."""
        return self.width * self.height or len(self.data)


@dataclass(frozen=True)
class PreparedItem:
    """One item, `index` being its place among the user's images."""

    index: int
    id: str
    images: tuple[PreparedImage, ...]
    prompt: str
    task: Task | None

    @property
    def image_bytes(self) -> int:
        return sum(len(image.data) for image in self.images)

    @property
    def pixels(self) -> int:
        return sum(image.pixels for image in self.images)


def prepare(
    images: Sequence[Any],
    prompts: Sequence[str],
    tasks: Sequence[Task | Mapping[str, Any] | None],
    ids: Sequence[str] | None,
) -> list[PreparedItem]:
    """Check and copy what the user gave.

    Raises:
        InvalidRequestError: lengths differ, or an image or a task is of no known kind; names the index.
    """
    lengths = {"images": len(images), "prompts": len(prompts), "tasks": len(tasks)}
    if ids is not None:
        lengths["ids"] = len(ids)
    if len(set(lengths.values())) > 1:
        raise InvalidRequestError(f"lengths differ: {lengths}; give one of each for every image")
    return [
        PreparedItem(
            index=index,
            id=ids[index] if ids is not None else str(index),
            images=_prepare_images(images[index], index),
            prompt=prompts[index],
            task=_task(tasks[index], index),
        )
        for index in range(len(images))
    ]


def divide(items: Sequence[PreparedItem], batch_items: int, limits: Limits) -> Iterator[list[PreparedItem]]:
    """Cut items into calls that keep `batch_items` and the service's limits. No item is larger than a call may be."""
    most = min(batch_items, limits.max_items)
    call: list[PreparedItem] = []
    call_bytes = 0
    for item in items:
        if call and (len(call) == most or call_bytes + item.image_bytes > limits.max_bytes_per_call):
            yield call
            call, call_bytes = [], 0
        call.append(item)
        call_bytes += item.image_bytes
    if call:
        yield call


def add_item(request: pb.ScoreRequest, item: PreparedItem, encoding: str) -> None:
    """Write an item into a request, pixels in the given encoding. Slow for all encodings but `rgb`."""
    message = request.items.add(id=item.id, prompt=item.prompt)
    set_task(message, item.task)
    for image in item.images:
        content = message.images.add()
        if not image.width:
            content.encoded.data = image.data
            content.encoded.format = FORMATS.get(sniff_format(image.data) or "", pb.IMAGE_FORMAT_UNSPECIFIED)
        elif encoding == "rgb":
            content.rgb.width, content.rgb.height, content.rgb.rgb8 = image.width, image.height, image.data
        else:
            pixels = np_view(image)
            content.encoded.data = encode(pixels, encoding.upper())
            content.encoded.format = FORMATS[encoding.upper()]


def np_view(image: PreparedImage) -> Any:
    """Pixels as (height, width, 3) uint8."""
    import numpy as np

    return np.frombuffer(image.data, dtype=np.uint8).reshape(image.height, image.width, 3)


def _prepare_images(image: Any, index: int) -> tuple[PreparedImage, ...]:
    several = image if isinstance(image, list | tuple) else (image,)
    try:
        return tuple(_prepare_image(one) for one in several)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"images[{index}]: {error}", reason="IMAGE_UNSUPPORTED") from error


def _prepare_image(image: Any) -> PreparedImage:
    if isinstance(image, bytes):
        return PreparedImage(image)
    pixels = to_rgb8(image)
    return PreparedImage(pixels.tobytes(), width=pixels.shape[1], height=pixels.shape[0])


def _task(task: Task | Mapping[str, Any] | None, index: int) -> Task | None:
    if not isinstance(task, Mapping):
        return task
    try:
        return GenEvalTask.from_metadata(task)
    except (KeyError, TypeError, IndexError) as error:
        raise InvalidRequestError(
            f"tasks[{index}] is no GenEval metadata: {error!r} (needed: tag, include, and class in each clause)"
        ) from error
