"""MAGVITv2's encoder, from pixels to numbers whose signs are the codes, and its decoder."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from generators.showo.magvit_blocks import Downsample, Level, Middle, Upsample, group_norm


class Encoder(nn.Module):
    """Pixels (batch, 3, height, width) in [-1, 1] -> (batch, z_channels, height / f, width / f), f = 2 ** (levels - 1).

    Args:
        ch: channels at full size.
        ch_mult: channels of each level in units of `ch`, from the full size down.
        num_res_blocks: of each level.
        z_channels: bits of a code.
        num_groups: of the group normalisation.
    """

    def __init__(
        self, ch: int, ch_mult: Sequence[int], num_res_blocks: Sequence[int], z_channels: int, num_groups: int
    ) -> None:
        super().__init__()
        widths = [ch, *(ch * factor for factor in ch_mult)]
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.down = nn.ModuleList()
        for level, num_blocks in enumerate(num_res_blocks):
            stage = Level(widths[level], widths[level + 1], num_blocks, num_groups)
            if level < len(ch_mult) - 1:
                stage.downsample = Downsample(widths[level + 1])
            self.down.append(stage)
        self.mid = Middle(widths[-1], num_groups)
        self.norm_out = group_norm(widths[-1], num_groups)
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 3, padding=1)
        self.quant_conv = nn.Conv2d(z_channels, z_channels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.conv_in(pixels)
        for stage in self.down:
            hidden = stage(hidden)
        hidden = self.conv_out(F.silu(self.norm_out(self.mid(hidden))))
        numbers: Tensor = self.quant_conv(hidden)
        return numbers


class Decoder(nn.Module):
    """Signs (batch, z_channels, height / f, width / f) -> pixels (batch, 3, height, width), not clamped.

    Arguments as in `Encoder`; levels are counted from the full size down here, too, but run from the last to the first.
    """

    def __init__(
        self, ch: int, ch_mult: Sequence[int], num_res_blocks: Sequence[int], z_channels: int, num_groups: int
    ) -> None:
        super().__init__()
        widths = [*(ch * factor for factor in ch_mult), ch * ch_mult[-1]]
        self.post_quant_conv = nn.Conv2d(z_channels, z_channels, 1)
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], num_groups)
        self.up = nn.ModuleList()
        for level, num_blocks in enumerate(num_res_blocks):
            stage = Level(widths[level + 1], widths[level], num_blocks, num_groups)
            if level > 0:
                stage.upsample = Upsample(widths[level])
            self.up.append(stage)
        self.norm_out = group_norm(widths[0], num_groups)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, signs: Tensor) -> Tensor:
        hidden = self.mid(self.conv_in(self.post_quant_conv(signs)))
        for stage in reversed(self.up):
            hidden = stage(hidden)
        pixels: Tensor = self.conv_out(F.silu(self.norm_out(hidden)))
        return pixels
