"""Images in and out: what clients may pass, and safe decoding of what came over the wire.

Decoding trusts nothing: three formats only, sizes are checked from the header before a pixel is decoded, and a
broken file gives `BadImageError`, never another exception. Servers also turn Pillow's warning about decompression
bombs into an error (`assay.serving.decoding`); here that would change the warnings of the user's whole process.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

RgbArray = NDArray[np.uint8]

# Modes that convert to RGB without clipping; 16-bit and float images have no agreed range.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

FORMATS = ("PNG", "WEBP", "JPEG")
# What Pillow's decoders raise on broken files (its handbook names OSError and SyntaxError; fuzzing finds the rest).
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    EOFError,
    OverflowError,
    AttributeError,
    struct.error,
    zlib.error,
    PillowImage.DecompressionBombError,
    PillowImage.DecompressionBombWarning,
)


class BadImageError(ValueError):
    """An image is refused. `reason` is the UPPER_SNAKE reason given to the caller."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class SizeLimits:
    """Accepted image sizes in pixels, all inclusive. A lower bound matters: some models crash on 1 x 1 images."""

    min_side: int
    max_side: int
    max_pixels: int

    def check(self, width: int, height: int) -> None:
        """Raises: BadImageError: the size is out of bounds."""
        if min(width, height) < self.min_side:
            raise BadImageError("IMAGE_TOO_SMALL", f"image is {width} x {height}; sides must be >= {self.min_side}")
        if max(width, height) > self.max_side:
            raise BadImageError("IMAGE_TOO_LARGE", f"image is {width} x {height}; sides must be <= {self.max_side}")
        if width * height > self.max_pixels:
            raise BadImageError(
                "IMAGE_TOO_LARGE",
                f"image is {width} x {height} = {width * height} pixels; at most {self.max_pixels} are allowed",
            )


def peek_size(data: bytes, expected_format: str, limits: SizeLimits) -> tuple[int, int]:
    """(width, height) from the header alone, checked against the limits.

    Raises:
        BadImageError: not a readable header of that format, or a size out of bounds.
    """
    with _open(data, expected_format) as image:
        limits.check(*image.size)
        return image.size


def decode(data: bytes, expected_format: str, limits: SizeLimits) -> RgbArray:
    """Decode an image file to (height, width, 3) uint8. Transparent pixels are laid over white.

    Raises:
        BadImageError: as for `peek_size`, or the pixel data are truncated or corrupt.
    """
    with _open(data, expected_format) as image:
        limits.check(*image.size)
        try:
            image.load()
            return np.asarray(_over_white(image))
        except BadImageError:
            raise
        except _DECODER_ERRORS as error:
            raise BadImageError(
                "IMAGE_UNDECODABLE", f"{expected_format} image is truncated or corrupt: {error}"
            ) from error


def rgb_from_bytes(rgb8: bytes, width: int, height: int, limits: SizeLimits) -> RgbArray:
    """View raw pixels as (height, width, 3) uint8; read-only, not copied.

    Raises:
        BadImageError: a size out of bounds, or not width * height * 3 bytes.
    """
    limits.check(width, height)
    if len(rgb8) != width * height * 3:
        raise BadImageError(
            "IMAGE_SIZE_MISMATCH",
            f"rgb8 holds {len(rgb8)} bytes; {width} x {height} x 3 = {width * height * 3} are needed",
        )
    return np.frombuffer(rgb8, dtype=np.uint8).reshape(height, width, 3)


def to_rgb8(image: Any) -> RgbArray:
    """What users pass as an image, as contiguous (height, width, 3) uint8.

    Args:
        image: a PIL image of any mode, or a uint8 array (height, width, 3).

    Raises:
        TypeError: any other kind of object.
        ValueError: an array of another shape or type.
    """
    if isinstance(image, PillowImage.Image):
        return np.asarray(_over_white(image))
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"an image must be a PIL image, a uint8 array or the bytes of a file, not {type(image).__name__}"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image array must be uint8 (height, width, 3), not {image.dtype} {image.shape}")
    return np.ascontiguousarray(image)


def encode(pixels: RgbArray, image_format: str) -> bytes:
    """Write (height, width, 3) uint8 as an image file. PNG and WEBP keep every bit, JPEG does not."""
    options: dict[str, dict[str, Any]] = {
        "PNG": {"compress_level": 1},
        "WEBP": {"lossless": True, "method": 0},
        "JPEG": {"quality": 95},
    }
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, format=image_format, **options[image_format])
    return buffer.getvalue()


def sniff_format(data: bytes) -> str | None:
    """Format of an image file by its first bytes; None if it is none of `FORMATS`."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return None


def _open(data: bytes, expected_format: str) -> PillowImage.Image:
    """Read the header. Only the announced decoder may look at the bytes."""
    if expected_format not in FORMATS:
        raise BadImageError("IMAGE_FORMAT_UNSUPPORTED", f"image format must be one of {', '.join(FORMATS)}")
    try:
        return PillowImage.open(io.BytesIO(data), formats=[expected_format])
    except UnidentifiedImageError as error:
        raise BadImageError("IMAGE_UNDECODABLE", f"{len(data)} bytes are no {expected_format} image") from error
    except (PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning) as error:
        raise BadImageError("IMAGE_TOO_LARGE", f"image is too large: {error}") from error
    except _DECODER_ERRORS as error:
        raise BadImageError("IMAGE_UNDECODABLE", f"{expected_format} header is corrupt: {error}") from error


def _over_white(image: PillowImage.Image) -> PillowImage.Image:
    if image.mode not in _MODES:
        raise BadImageError("IMAGE_MODE_UNSUPPORTED", f"image mode {image.mode} is none of {', '.join(_MODES)}")
    if image.mode == "RGB":
        return image
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = PillowImage.new("RGBA", rgba.size, (255, 255, 255, 255))
    return PillowImage.alpha_composite(white, rgba).convert("RGB")
