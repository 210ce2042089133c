"""Between pictures as others have them, (height, width, 3) uint8 RGB, and MAGVITv2's codes."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.errors import ConfigError
from generators.showo.magvit import MAGVITv2


@torch.no_grad()
def decode_pictures(vq_model: MAGVITv2, codes: Tensor, grid: tuple[int, int] | None = None) -> list[NDArray[np.uint8]]:
    """Pictures of codes (batch, tokens): a list of (height, width, 3) uint8, rounded down as the published code does.

    Args:
        grid: rows and columns of the tokens; None for a square.

    Raises:
        ConfigError: the codes do not fill the grid.
        ArithmeticError: a pixel is not finite; such a picture must not be scored.
    """
    decoded = vq_model.decode_code(codes, grid)
    if not bool(decoded.isfinite().all()):
        raise ArithmeticError("a decoded picture is not finite: the weights are broken, or the precision overflows")
    pixels = (((decoded.float() + 1) / 2).clamp(0, 1) * 255).to(torch.uint8)
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def encode_pictures(vq_model: MAGVITv2, images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Codes (batch, tokens) int64 of (height, width, 3) uint8 RGB.

    Raises:
        ConfigError: they have another type, different sizes, or sides that do not fit.
    """
    for index, image in enumerate(images):
        if image.dtype != np.uint8 or image.shape != images[0].shape or image.shape[2:] != (3,):
            raise ConfigError(
                f"images[{index}] is {image.dtype} {image.shape}; allowed: uint8 (height, width, 3), all of one size"
            )
    pixels = torch.from_numpy(np.stack(images)).to(vq_model.device).permute(0, 3, 1, 2)
    codes: Tensor = vq_model.get_code(pixels.float() / 127.5 - 1)
    return codes


def token_grid(num_tokens: int, token_pixels: int, height: int | None, width: int | None) -> tuple[int, int]:
    """Rows and columns of a picture's tokens; a side that is None is the square's.

    Raises:
        ConfigError: a picture of that size has another number of tokens.
    """
    square = math.isqrt(num_tokens) * token_pixels
    height, width = square if height is None else height, square if width is None else width
    if height % token_pixels or width % token_pixels or height * width != num_tokens * token_pixels**2:
        raise ConfigError(
            f"height and width are {height} and {width}; allowed: multiples of {token_pixels} that together make "
            f"{num_tokens} squares of {token_pixels} pixels, such as {square} and {square}"
        )
    return height // token_pixels, width // token_pixels
