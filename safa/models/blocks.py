"""Building blocks of every network here: conv + norm + activation, the hourglass, the image pyramid.

Shapes are (B, C, H, W). Attribute names are those of the released checkpoints, in their order.
Source: First Order Motion Model (Siarohin et al., 2019), appendix; docs/model.md, section 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.config.model import HourglassConfig
from safa.geometry.gaussians import AntiAlias


class SameBlock(nn.Module):
    """Conv, norm, ReLU at the same size: (B, cin, H, W) -> (B, cout, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class DownBlock(nn.Module):
    """Conv, norm, ReLU, average pool: (B, cin, H, W) -> (B, cout, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.relu(self.norm(self.conv(x))), 2)


class UpBlock(nn.Module):
    """Nearest x2, conv, norm, ReLU: (B, cin, H, W) -> (B, cout, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))))


class ResBlock(nn.Module):
    """Pre-activation residual block, (B, C, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(channels)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.relu(self.norm1(x)))
        change: Tensor = self.conv2(F.relu(self.norm2(hidden)))
        return x + change


class Encoder(nn.Module):
    """The way down of the hourglass: (B, cin, H, W) -> the input and every block's output.

    Output i is (B, c_i, H/2^i, W/2^i).
    """

    def __init__(self, config: HourglassConfig, in_channels: int) -> None:
        super().__init__()
        widths = _widths(config)
        self.down_blocks = nn.ModuleList(
            DownBlock(in_channels if i == 0 else widths[i], widths[i + 1]) for i in range(config.num_blocks)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = [x]
        for block in self.down_blocks:
            outputs.append(block(outputs[-1]))
        return outputs


class Decoder(nn.Module):
    """The way up of the hourglass: after each block the encoder's output of that size is appended."""

    def __init__(self, config: HourglassConfig) -> None:
        super().__init__()
        widths = _widths(config)
        deepest = config.num_blocks - 1
        self.up_blocks = nn.ModuleList(
            UpBlock(widths[i + 1] * (1 if i == deepest else 2), widths[i]) for i in range(deepest, -1, -1)
        )

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        *shallower, out = skips
        for block, skip in zip(self.up_blocks, reversed(shallower), strict=True):
            out = torch.cat([block(out), skip], dim=1)  # (B, c, h, w), (B, d, h, w) -> (B, c + d, h, w)
        return out


class Hourglass(nn.Module):
    """U-Net of ``num_blocks`` halvings: (B, cin, H, W) -> (B, block_expansion + cin, H, W).

    H and W must be divisible by ``2**num_blocks``.
    """

    def __init__(self, config: HourglassConfig, in_channels: int) -> None:
        super().__init__()
        self.encoder = Encoder(config, in_channels)
        self.decoder = Decoder(config)
        self.out_channels = _widths(config)[0] + in_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(x))
        return out


def _widths(config: HourglassConfig) -> list[int]:
    """Channels at each depth; depth 0 is the full size."""
    return [min(config.max_features, config.block_expansion * 2**i) for i in range(config.num_blocks + 1)]


@dataclass(frozen=True)
class Pyramid:
    """An image at several scales: ``images[i]`` is (B, 3, H*scales[i], W*scales[i])."""

    scales: tuple[float, ...]
    images: tuple[Tensor, ...]

    def at(self, scales: Sequence[float]) -> tuple[Tensor, ...]:
        """The images of some of the scales, in the order asked for."""
        return tuple(self.images[self.scales.index(scale)] for scale in scales)

    def detach(self) -> Pyramid:
        return Pyramid(self.scales, tuple(image.detach() for image in self.images))


class ImagePyramid(nn.Module):
    """Anti-aliased copies of an image (B, 3, H, W). The filters are fixed and belong to no checkpoint."""

    def __init__(self, scales: Sequence[float]) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.downs = nn.ModuleList(AntiAlias(3, scale) for scale in self.scales)

    def forward(self, image: Tensor) -> Pyramid:
        return Pyramid(self.scales, tuple(down(image) for down in self.downs))
