"""MobileNetV2 without its classifier.

Source: Sandler et al. (2018), table 2. Layers are named as in torchvision, so that its weights load by name.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from safa.files import Location, shown
from safa.weights import load_layers, read_weights

FEATURE_CHANNELS = 1280  # of the last layer, whatever the width
STEM_CHANNELS = 32  # of the first layer at width 1
STEM_STRIDE = 2
CHANNEL_MULTIPLE = 8  # every count of channels is a multiple of this
MIN_KEPT = 0.9  # share of the channels that rounding has to keep

# Rows of table 2: channels are widened by the factor inside a block, and leave it as so many.
_EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
_CHANNELS = (16, 24, 32, 64, 96, 160, 320)
BLOCKS = (1, 2, 3, 4, 3, 3, 1)
STRIDES = (1, 2, 2, 2, 1, 2, 1)


def mobilenet_v2_features(
    width: float = 1.0, blocks: Sequence[int] = BLOCKS, strides: Sequence[int] = STRIDES
) -> nn.Sequential:
    """Build the layers, initialised at random: (B, 3, H, W) -> (B, 1280, H/32, W/32).

    Args:
        width: multiplies all channel counts but the last one's.
        blocks: of each of the seven stages; the published ones give layers ``0`` to ``18``.
        strides: of the first block of each stage; they and the first layer's 2 shrink the image.
    """
    channels = _scaled(STEM_CHANNELS, width)
    layers: list[nn.Module] = [_conv_bn_relu(3, channels, kernel_size=3, stride=STEM_STRIDE)]
    for expansion, full, count, first in zip(_EXPANSIONS, _CHANNELS, blocks, strides, strict=True):
        out_channels = _scaled(full, width)
        for stride in [first] + [1] * (count - 1):
            layers.append(InvertedResidual(channels, out_channels, stride, expansion))
            channels = out_channels
    layers.append(_conv_bn_relu(channels, FEATURE_CHANNELS, kernel_size=1))
    features = nn.Sequential(*layers)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return features


def load_imagenet_weights(features: nn.Sequential, path: Location) -> None:
    """Fill ``mobilenet_v2_features()`` of width 1 from torchvision's ``mobilenet_v2`` state dict.

    Raises:
        UserError: the file is missing or unreadable, or a layer is absent or of another shape.
    """
    load_layers(
        *(features, {name: f"features.{name}" for name in features.state_dict()}),
        *(read_weights(path), shown(path)),
        if_absent="Give torchvision's mobilenet_v2 state dict.",
        if_misfit="It fits encoder_width 1 only.",
    )


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow: (B, cin, H, W) -> (B, cout, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        widen = [_conv_bn_relu(in_channels, hidden, kernel_size=1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *widen,
            _conv_bn_relu(hidden, hidden, kernel_size=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.is_residual else out


def _conv_bn_relu(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    padding = kernel_size // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True))


def _scaled(channels: int, width: float) -> int:
    """Channels at a width: a multiple of 8, rounded, but never down by more than a tenth."""
    exact = channels * width
    rounded = max(CHANNEL_MULTIPLE, int(exact + CHANNEL_MULTIPLE / 2) // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE)
    return rounded if rounded >= MIN_KEPT * exact else rounded + CHANNEL_MULTIPLE
