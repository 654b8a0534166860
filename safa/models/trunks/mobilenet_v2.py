"""MobileNetV2 without its classifier.

Source: Sandler et al. (2018), table 2. Layers are named as in torchvision, so that its weights load by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from safa.errors import UserError
from safa.models.trunks.weights import read_weights

FEATURE_CHANNELS = 1280  # of the last layer, whatever the width
STEM_CHANNELS = 32
CHANNEL_MULTIPLE = 8
MAX_LOSS = 0.9  # rounding may not take away more than a tenth of the channels


@dataclass(frozen=True)
class _Stage:
    """A row of table 2: ``repeats`` blocks, the first with ``stride``."""

    expansion: int
    channels: int
    repeats: int
    stride: int


_STAGES = (
    _Stage(1, 16, 1, 1),
    _Stage(6, 24, 2, 2),
    _Stage(6, 32, 3, 2),
    _Stage(6, 64, 4, 2),
    _Stage(6, 96, 3, 1),
    _Stage(6, 160, 3, 2),
    _Stage(6, 320, 1, 1),
)


def mobilenet_v2_features(width: float = 1.0) -> nn.Sequential:
    """The 19 layers ``0`` to ``18``: (B, 3, H, W) -> (B, 1280, H/32, W/32), started at random.

    Args:
        width: multiplies all channel counts but the last one's.
    """
    channels = _scaled(STEM_CHANNELS, width)
    layers: list[nn.Module] = [_conv_bn_relu(3, channels, kernel_size=3, stride=2)]
    for stage in _STAGES:
        out_channels = _scaled(stage.channels, width)
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            layers.append(InvertedResidual(channels, out_channels, stride, stage.expansion))
            channels = out_channels
    layers.append(_conv_bn_relu(channels, FEATURE_CHANNELS, kernel_size=1))
    features = nn.Sequential(*layers)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return features


def load_imagenet_weights(features: nn.Sequential, path: Path) -> None:
    """Fill ``mobilenet_v2_features()`` of width 1 from torchvision's ``mobilenet_v2`` state dict.

    Raises:
        UserError: the file is missing or unreadable, or a layer is absent or of another shape.
    """
    given = read_weights(path)
    own = features.state_dict()
    for name, value in own.items():
        theirs = f"features.{name}"
        if theirs not in given:
            raise UserError(f"no '{theirs}'", str(path), "Give torchvision's mobilenet_v2 state dict.")
        if given[theirs].shape != value.shape:
            shapes = f"{tuple(given[theirs].shape)}, not {tuple(value.shape)}"
            raise UserError(f"'{theirs}' is {shapes}", str(path), "It fits encoder_width 1 only.")
        own[name] = given[theirs]
    features.load_state_dict(own)


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
    wanted = channels * width
    rounded = max(CHANNEL_MULTIPLE, int(wanted + CHANNEL_MULTIPLE / 2) // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE)
    return rounded if rounded >= MAX_LOSS * wanted else rounded + CHANNEL_MULTIPLE
