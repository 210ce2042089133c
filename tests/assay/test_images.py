"""Decoding gives the right pixels, or `BadImageError`; nothing else, whatever the bytes."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from assay.images import BadImageError, SizeLimits, decode, encode, peek_size, rgb_from_bytes, sniff_format, to_rgb8

LIMITS = SizeLimits(min_side=8, max_side=8192, max_pixels=2048 * 2048)
RANDOM = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def png_header(width: int, height: int, body: bytes = b"") -> bytes:
    """A grey one-bit PNG that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def reason_of(data: bytes, image_format: str = "PNG", limits: SizeLimits = LIMITS) -> str:
    with pytest.raises(BadImageError) as caught:
        decode(data, image_format, limits)
    return caught.value.reason


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_lossless_formats_keep_every_bit(image_format: str) -> None:
    data = encode(RANDOM, image_format)
    assert sniff_format(data) == image_format
    assert peek_size(data, image_format, LIMITS) == (40, 24)
    np.testing.assert_array_equal(decode(data, image_format, LIMITS), RANDOM)


def test_jpeg_is_near_and_not_equal() -> None:
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    decoded = decode(encode(smooth, "JPEG"), "JPEG", LIMITS).astype(int)
    assert 0 < np.abs(decoded - smooth).max() < 40


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1", "PA", "CMYK"])
def test_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(RANDOM).convert("L").convert("P" if mode == "PA" else mode)
    pixels = to_rgb8(image.convert(mode))
    assert pixels.shape == (24, 40, 3)
    assert pixels.dtype == np.uint8


def test_transparency_is_laid_over_white() -> None:
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert (decode(buffer.getvalue(), "PNG", LIMITS) == 255).all()
    assert (to_rgb8(Image.new("RGBA", (8, 8), (10, 20, 30, 255))) == (10, 20, 30)).all()


def test_sixteen_bit_images_are_refused_not_clipped() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16), 40000, dtype=np.uint16)).save(buffer, "PNG")
    assert reason_of(buffer.getvalue()) == "IMAGE_MODE_UNSUPPORTED"


def test_truncated_png_is_refused() -> None:
    data = encode(RANDOM, "PNG")
    assert reason_of(data[: len(data) // 2]) == "IMAGE_UNDECODABLE"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # servers make it an error
def test_a_bomb_is_refused_by_its_header() -> None:
    rows = zlib.compress(bytes((13000 // 8 + 1) * 13000), 9)
    bomb = png_header(13000, 13000, rows)
    assert len(bomb) < 50_000
    assert reason_of(bomb) == "IMAGE_TOO_LARGE"


def test_a_monstrous_header_is_refused() -> None:
    assert reason_of(png_header(2**31 - 1, 2**31 - 1)) == "IMAGE_TOO_LARGE"


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (1, 1, "IMAGE_TOO_SMALL"),
        (7, 100, "IMAGE_TOO_SMALL"),
        (8193, 8, "IMAGE_TOO_LARGE"),
        (2049, 2048, "IMAGE_TOO_LARGE"),
    ],
)
def test_sizes_out_of_bounds_are_refused(width: int, height: int, reason: str) -> None:
    assert reason_of(png_header(width, height)) == reason
    with pytest.raises(BadImageError) as caught:
        rgb_from_bytes(bytes(width * height * 3), width, height, LIMITS)
    assert caught.value.reason == reason


def test_bounds_are_inclusive() -> None:
    assert rgb_from_bytes(bytes(8 * 8192 * 3), 8192, 8, LIMITS).shape == (8, 8192, 3)


@pytest.mark.parametrize("missing", [-1, 1])
def test_raw_pixels_must_fill_the_image(missing: int) -> None:
    with pytest.raises(BadImageError, match="10 x 12 x 3 = 360 are needed") as caught:
        rgb_from_bytes(bytes(360 - missing), 10, 12, LIMITS)
    assert caught.value.reason == "IMAGE_SIZE_MISMATCH"


def test_raw_pixels_are_read_row_by_row() -> None:
    np.testing.assert_array_equal(rgb_from_bytes(RANDOM.tobytes(), 40, 24, LIMITS), RANDOM)


def test_only_the_announced_decoder_may_run() -> None:
    assert reason_of(encode(RANDOM, "PNG"), "WEBP") == "IMAGE_UNDECODABLE"
    buffer = io.BytesIO()
    Image.fromarray(RANDOM).save(buffer, "GIF")
    assert reason_of(buffer.getvalue(), "PNG") == "IMAGE_UNDECODABLE"
    assert reason_of(buffer.getvalue(), "GIF") == "IMAGE_FORMAT_UNSUPPORTED"
    assert sniff_format(buffer.getvalue()) is None


@pytest.mark.parametrize("image", [RANDOM.astype(float), RANDOM[..., :1], RANDOM[..., 0], RANDOM[None]])
def test_arrays_of_other_kinds_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \(height, width, 3\)"):
        to_rgb8(image)


def test_objects_that_are_no_images_are_refused() -> None:
    with pytest.raises(TypeError, match="not list"):
        to_rgb8([1, 2, 3])


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["PNG", "WEBP", "JPEG"]), st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(image_format: str, data: bytes) -> None:
    with pytest.raises(BadImageError):
        decode(data, image_format, LIMITS)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["PNG", "WEBP", "JPEG"]), st.data())
def test_damaged_files_decode_or_are_refused(image_format: str, data: st.DataObject) -> None:
    file = bytearray(encode(RANDOM, image_format))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    del file[data.draw(st.integers(0, len(file))) :]
    with contextlib.suppress(BadImageError):  # and nothing else
        pixels = decode(bytes(file), image_format, LIMITS)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
