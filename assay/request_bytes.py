"""Write a `ScoreRequest` as bytes, copying its pixels once.

Filling a message and serialising it would copy every pixel twice more, into memory that is new each time: at 16 images
of 512 x 512 that costs more than all the rest of a call. So what is small is written by protobuf, and the pixels are
laid between the pieces. Protobuf's encoding of nested fields is a tag and a length before the content.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from assay.images import encode, sniff_format
from assay.prepared import PreparedImage, PreparedItem
from assay.v1 import reward_service_pb2 as pb
from assay.wire import FORMATS, set_task

Piece = bytes | memoryview
_LENGTH_DELIMITED = 2


def request_bytes(header: pb.ScoreRequest, items: Sequence[PreparedItem], encoding: str) -> bytes:
    """The request `header` with `items` added, pixels in the given encoding. Slow for all encodings but `rgb`."""
    pieces: list[Piece] = [header.SerializeToString()]
    for item in items:
        content = list(_item_pieces(item, encoding))
        pieces += [_field(_ITEMS, _length(content)), *content]
    return b"".join(pieces)


def _item_pieces(item: PreparedItem, encoding: str) -> Iterator[Piece]:
    message = pb.ScoreItem(id=item.id, prompt=item.prompt)
    set_task(message, item.task)
    yield message.SerializeToString()
    for image in item.images:
        content = _file_pieces(image.data) if image.is_file else _pixel_pieces(image, encoding)
        yield _field(_IMAGES, _length(content))
        yield from content


def _pixel_pieces(image: PreparedImage, encoding: str) -> list[Piece]:
    if encoding != "rgb":
        pixels = np.frombuffer(image.data, dtype=np.uint8).reshape(image.height, image.width, 3)
        return _file_pieces(encode(pixels, encoding.upper()))
    size = pb.RgbImage(width=image.width, height=image.height).SerializeToString()
    before = size + _field(_RGB8, len(image.data))
    return [_field(_RGB, len(before) + len(image.data)), before, image.data]


def _file_pieces(data: Piece) -> list[Piece]:
    image_format = FORMATS.get(sniff_format(bytes(data[:16])) or "", pb.IMAGE_FORMAT_UNSPECIFIED)
    before = pb.EncodedImage(format=image_format).SerializeToString() + _field(_DATA, len(data))
    return [_field(_ENCODED, len(before) + len(data)), before, data]


def _length(pieces: Sequence[Piece]) -> int:
    return sum(len(piece) for piece in pieces)


def _field(number: int, length: int) -> bytes:
    """Tag and length of a length-delimited field."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the high bit says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(message: type[pb.ScoreRequest | pb.ScoreItem | pb.Image | pb.RgbImage | pb.EncodedImage], name: str) -> int:
    number: int = message.DESCRIPTOR.fields_by_name[name].number
    return number


_ITEMS = _number(pb.ScoreRequest, "items")
_IMAGES = _number(pb.ScoreItem, "images")
_RGB = _number(pb.Image, "rgb")
_ENCODED = _number(pb.Image, "encoded")
_RGB8 = _number(pb.RgbImage, "rgb8")
_DATA = _number(pb.EncodedImage, "data")
