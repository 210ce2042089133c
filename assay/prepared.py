"""What a client sends: items taken from the user's images, prompts and tasks, and their division into calls.

Pixels are copied at once, so that the user may overwrite a buffer after `submit`; requests are built only when they
are about to be sent (`assay.request_bytes`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.errors import InvalidRequestError
from assay.images import RgbArray, to_rgb8
from assay.serving.scorer import Limits
from assay.tasks import GenEvalTask, Task

ENCODINGS = ("rgb", "png", "webp", "jpeg")


@dataclass(frozen=True)
class PreparedImage:
    """Pixels (width and height known), or the bytes of an image file (both 0)."""

    data: bytes | memoryview
    width: int = 0
    height: int = 0

    @property
    def is_file(self) -> bool:
        return self.width == 0

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
    *,
    copies: bool = True,
) -> list[PreparedItem]:
    """Check what the user gave, and copy the pixels unless the caller waits until they are sent.

    Raises:
        InvalidRequestError: lengths differ, or an image or a task is of no known kind; names the index.
    """
    lengths = {"images": len(images), "prompts": len(prompts), "tasks": len(tasks)}
    if ids is not None:
        lengths["ids"] = len(ids)
    if len(set(lengths.values())) > 1:
        raise InvalidRequestError(f"lengths differ: {lengths}; give one of each for every image")
    checked = [_check_images(image, index) for index, image in enumerate(images)]
    snapshot = _Snapshot(checked) if copies else None
    return [
        PreparedItem(
            index=index,
            id=ids[index] if ids is not None else str(index),
            images=tuple(_prepare_image(image, snapshot) for image in checked[index]),
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


def _check_images(image: Any, index: int) -> tuple[RgbArray | bytes, ...]:
    several = image if isinstance(image, list | tuple) else (image,)
    try:
        return tuple(one if isinstance(one, bytes) else to_rgb8(one) for one in several)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"images[{index}]: {error}", reason="IMAGE_UNSUPPORTED") from error


class _Snapshot:
    """One block of memory for all copies: a block for each image would be new memory each time, and that is slow."""

    def __init__(self, images: Sequence[tuple[RgbArray | bytes, ...]]) -> None:
        arrays = [image for item in images for image in item if not isinstance(image, bytes)]
        self._block = np.empty(sum(array.nbytes for array in arrays), dtype=np.uint8)
        self._used = 0

    def copy(self, array: RgbArray) -> RgbArray:
        begin, self._used = self._used, self._used + array.nbytes
        copied = self._block[begin : self._used].reshape(array.shape)
        np.copyto(copied, array)
        return copied


def _prepare_image(image: RgbArray | bytes, snapshot: _Snapshot | None) -> PreparedImage:
    if isinstance(image, bytes):
        return PreparedImage(image)
    pixels = image if snapshot is None else snapshot.copy(image)
    return PreparedImage(pixels.reshape(-1).data, width=pixels.shape[1], height=pixels.shape[0])


def _task(task: Task | Mapping[str, Any] | None, index: int) -> Task | None:
    if not isinstance(task, Mapping):
        return task
    try:
        return GenEvalTask.from_metadata(task)
    except (KeyError, TypeError, IndexError) as error:
        raise InvalidRequestError(
            f"tasks[{index}] is no GenEval metadata: {error!r} (needed: tag, include, and class in each clause)"
        ) from error
