"""MAGVITv2: pictures to image codes and back. Its defaults are `showlab/magvitv2`, whose configuration names no sizes.

For training its parts are there (`encoder`, `quantize.straight_through`, `decoder`); losses are not.
"""

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from assay.errors import ConfigError
from generators.showo.hub_layout import HubModel
from generators.showo.lookup_free import LookupFreeQuantizer
from generators.showo.magvit_coders import Decoder, Encoder


class MAGVITv2(HubModel):
    """Encoder, lookup-free quantisation and decoder, with the published names and shapes of tensors.

    Args:
        ch: channels at full size.
        encoder_ch_mult: channels of each level in units of `ch`, from the full size down; every level but the last
            halves the sides.
        encoder_num_res_blocks: residual blocks of each level.
        decoder_ch_mult: likewise, counted from the full size down.
        decoder_num_res_blocks: likewise.
        z_channels: bits of a code.
        num_groups: of the group normalisation; divides every number of channels.

    Raises:
        ConfigError: the sizes do not fit each other.
    """

    @register_to_config
    def __init__(
        self,
        ch: int = 128,
        encoder_ch_mult: Sequence[int] = (1, 2, 2, 4, 4),
        encoder_num_res_blocks: Sequence[int] = (4, 3, 4, 3, 4),
        decoder_ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        decoder_num_res_blocks: Sequence[int] = (4, 4, 3, 4, 3),
        z_channels: int = 13,
        num_groups: int = 32,
    ) -> None:
        super().__init__()
        levels = len(encoder_ch_mult)
        for name in ("encoder_num_res_blocks", "decoder_ch_mult", "decoder_num_res_blocks"):
            if len(self.config[name]) != levels:
                raise ConfigError(f"{name} is {list(self.config[name])}; allowed: as many numbers as encoder_ch_mult")
        if ch % num_groups:
            raise ConfigError(f"ch is {ch}; allowed: multiples of num_groups = {num_groups}")
        self.encoder = Encoder(ch, encoder_ch_mult, encoder_num_res_blocks, z_channels, num_groups)
        self.decoder = Decoder(ch, decoder_ch_mult, decoder_num_res_blocks, z_channels, num_groups)
        self.quantize = LookupFreeQuantizer(z_channels)

    @property
    def codebook_size(self) -> int:
        return int(2**self.config.z_channels)

    @property
    def token_pixels(self) -> int:
        """Height and width of the square that one code stands for."""
        return int(2 ** (len(self.config.encoder_ch_mult) - 1))

    @torch.no_grad()
    def get_code(self, pixels: Tensor) -> Tensor:
        """Codes of pictures, row by row.

        Args:
            pixels: (batch, 3, height, width) in [-1, 1]; both sides multiples of `token_pixels`.

        Returns:
            (batch, height * width / token_pixels ** 2) int64 in [0, codebook_size).

        Raises:
            ConfigError: a side does not fit.
        """
        for name, side in zip(("height", "width"), pixels.shape[2:], strict=True):
            if side % self.token_pixels:
                raise ConfigError(f"{name} is {side}; allowed: multiples of {self.token_pixels}")
        return self.quantize.codes(self.encoder(pixels.to(self.dtype)))

    @torch.no_grad()
    def decode_code(self, codes: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        """Pictures of codes.

        Args:
            codes: (batch, tokens) int64 in [0, codebook_size), row by row.
            shape: rows and columns of the grid; None for a square.

        Returns:
            (batch, 3, rows * token_pixels, columns * token_pixels), about [-1, 1] but not clamped.

        Raises:
            ConfigError: the codes do not fill the grid.
        """
        side = math.isqrt(codes.shape[1])
        rows, columns = (side, side) if shape is None else shape
        if rows * columns != codes.shape[1]:
            raise ConfigError(f"shape is {(rows, columns)}; allowed: one that {codes.shape[1]} codes fill")
        signs = self.quantize.signs(codes).unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        pixels: Tensor = self.decoder(signs)
        return pixels
