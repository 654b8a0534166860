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
from torch.nn.utils.fusion import fuse_conv_bn_eval

from safa.config.model import HourglassConfig
from safa.geometry.gaussians import AntiAlias

FEWEST_PIXELS = 64  # of an image that is worth four kernels: 64 are measured as faster, 16 as slower


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


class UpConv(nn.Conv2d):
    """Nearest x2, then a convolution of 3 x 3: (B, cin, H, W) -> (B, cout, 2H, 2W).

    Of the nine pixels under such a kernel only four differ, so each of the four pixels that replace one is a
    convolution of 2 x 2 of the small image, with sums of the kernel's entries as weights: 4 multiplications
    in place of 9. They run as one convolution with four times the channels. Where the image is so small that
    reading the weights takes the time, the larger image is the faster way.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] * x.shape[-1] < FEWEST_PIXELS:
            return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))
        assert self.bias is not None
        bias = self.bias.repeat_interleave(4)  # (cout,) -> (4 * cout,)
        return upsampled_conv(x, four_kernels(self.weight), bias)


def four_kernels(weight: Tensor) -> Tensor:
    """Kernels (cout, cin, 3, 3) for an upsampled image to (4 * cout, cin, 2, 2) for the image itself."""
    rows = torch.stack(  # (cout, cin, 3, 3) -> (cout, 2, cin, 2, 3)
        [
            torch.stack([weight[:, :, 0] + weight[:, :, 1], weight[:, :, 2]], dim=2),
            torch.stack([weight[:, :, 0], weight[:, :, 1] + weight[:, :, 2]], dim=2),
        ],
        dim=1,
    )
    both = torch.stack(  # (cout, 2, cin, 2, 3) -> (cout, 2, 2, cin, 2, 2)
        [
            torch.stack([rows[..., 0] + rows[..., 1], rows[..., 2]], dim=-1),
            torch.stack([rows[..., 0], rows[..., 1] + rows[..., 2]], dim=-1),
        ],
        dim=2,
    )
    return both.flatten(0, 2)  # (cout, 2, 2, cin, 2, 2) -> (4 * cout, cin, 2, 2)


def upsampled_conv(x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """Convolve (B, cin, H, W) by ``four_kernels``, each with its bias (4 * cout,): (B, cout, 2H, 2W)."""
    cells = F.conv2d(x, kernels, bias, padding=1)  # (B, 4 * cout, H + 1, W + 1), cells between four pixels
    return F.pixel_shuffle(cells, 2)[..., 1:-1, 1:-1]  # (B, cout, 2H + 2, 2W + 2) -> (B, cout, 2H, 2W)


class UpBlock(nn.Module):
    """Nearest x2, conv, norm, ReLU: (B, cin, H, W) -> (B, cout, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = UpConv(in_channels, out_channels)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


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


def fold_norm(module: nn.Module, conv: str, norm: str) -> None:
    """Put a BatchNorm that is fixed into the convolution before it, in place: the same numbers in one pass.

    Args:
        conv, norm: names of two layers of the module; the second becomes the identity.
    """
    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
    setattr(module, norm, nn.Identity())
