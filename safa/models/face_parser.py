"""Face parser: which of 19 classes (skin, brows, eyes, lips, hair, ...) each pixel belongs to.

Source: BiSeNet (Yu et al., ECCV 2018), sections 3.2 and 3.3, with a ResNet-18 context path; names as in the
published ``face-parsing.PyTorch`` weights. docs/model.md, section 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.geometry.grids import resize
from safa.models.backbones.resnet18 import ResNet18
from safa.models.backbones.vgg19 import IMAGENET_MEAN, IMAGENET_STD

NUM_CLASSES = 19
INPUT_SIZE = 512  # px, square; what the published weights were trained at
FACE_CLASSES = tuple(range(1, 16))  # skin, brows, eyes, glasses, ears, nose, mouth, neck
HARD_THRESHOLD = 0.5  # of a probability in [0, 1]


@dataclass(frozen=True)
class ParserFeatures:
    """Features that the output heads read.

    Attributes:
        stride8: (B, 128, H/8, W/8), of the backbone.
        context8: (B, 128, H/8, W/8), the attended context.
        context16: (B, 128, H/16, W/16), the same at half the resolution.
    """

    stride8: Tensor
    context8: Tensor
    context16: Tensor


class ConvBnRelu(nn.Module):
    """Conv without bias, BatchNorm, ReLU, at the same size."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class AttentionRefinement(nn.Module):
    """Features weighed by a channel attention computed from their global mean."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvBnRelu(in_channels, out_channels, 3)
        self.conv_atten = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv(x)
        attention = torch.sigmoid(self.bn_atten(self.conv_atten(_global_mean(features))))
        return features * attention


class ContextPath(nn.Module):
    """Backbone, attention refinement at strides 16 and 32, global context at 32."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16 = AttentionRefinement(256, 128)
        self.arm32 = AttentionRefinement(512, 128)
        self.conv_head32 = ConvBnRelu(128, 128, 3)
        self.conv_head16 = ConvBnRelu(128, 128, 3)
        self.conv_avg = ConvBnRelu(512, 128, 1)

    def forward(self, x: Tensor) -> ParserFeatures:
        stride8, stride16, stride32 = self.resnet(x)
        out32 = self.arm32(stride32) + self.conv_avg(_global_mean(stride32))
        context16 = self.conv_head32(_nearest(out32, stride16))
        context8 = self.conv_head16(_nearest(self.arm16(stride16) + context16, stride8))
        return ParserFeatures(stride8, context8, context16)


class FeatureFusion(nn.Module):
    """Backbone and context features joined, with a channel attention added."""

    def __init__(self, in_channels: int, out_channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.convblk = ConvBnRelu(in_channels, out_channels, 1)
        self.conv1 = nn.Conv2d(out_channels, out_channels // reduction, 1, bias=False)
        self.conv2 = nn.Conv2d(out_channels // reduction, out_channels, 1, bias=False)

    def forward(self, stride8: Tensor, context8: Tensor) -> Tensor:
        # (B, 128, h, w) twice -> (B, 256, h, w)
        features: Tensor = self.convblk(torch.cat([stride8, context8], dim=1))
        attention = torch.sigmoid(self.conv2(F.relu(self.conv1(_global_mean(features)))))
        return features + features * attention


class OutputHead(nn.Module):
    """Class scores at the features' own size."""

    def __init__(self, in_channels: int, mid_channels: int) -> None:
        super().__init__()
        self.conv = ConvBnRelu(in_channels, mid_channels, 3)
        self.conv_out = nn.Conv2d(mid_channels, NUM_CLASSES, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_out(self.conv(x))
        return out


@dataclass(frozen=True)
class ParserLogits:
    """Class scores (B, 19, H, W) of the main head and of the two auxiliary ones that only training uses."""

    main: Tensor
    auxiliary16: Tensor
    auxiliary32: Tensor


class FaceParser(nn.Module):
    """BiSeNet with 19 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion(256, 256)
        self.conv_out = OutputHead(256, 256)
        self.conv_out16 = OutputHead(128, 64)
        self.conv_out32 = OutputHead(128, 64)

    def forward(self, image: Tensor) -> ParserLogits:
        """Image (B, 3, H, W) in [0, 1], H and W multiples of 32."""
        features: ParserFeatures = self.cp(normalise(image))
        size = image.shape[-2:]
        return ParserLogits(
            main=_enlarge(self.conv_out(self.ffm(features.stride8, features.context8)), size),
            auxiliary16=_enlarge(self.conv_out16(features.context8), size),
            auxiliary32=_enlarge(self.conv_out32(features.context16), size),
        )

    def probabilities(self, image: Tensor) -> Tensor:
        """Soft class probabilities (B, 19, 512, 512) of an image (B, 3, H, W) in [0, 1] of any size.

        The two auxiliary heads are not run.
        """
        image = resize(image, (INPUT_SIZE, INPUT_SIZE))
        features: ParserFeatures = self.cp(normalise(image))
        scores = self.conv_out(self.ffm(features.stride8, features.context8))
        return F.softmax(_enlarge(scores, image.shape[-2:]), dim=1)


def blend_mask(probabilities: Tensor, classes: Sequence[int] = FACE_CLASSES, *, hard: bool = False) -> Tensor:
    """Where the chosen classes are: (B, 19, H, W) -> (B, 1, H, W), soft in [0, 1] or thresholded at 0.5."""
    mask = probabilities[:, list(classes)].sum(dim=1, keepdim=True)  # (B, 19, H, W) -> (B, 1, H, W)
    return (mask > HARD_THRESHOLD).to(mask.dtype) if hard else mask


def normalise(image: Tensor) -> Tensor:
    """ImageNet normalisation of (B, 3, H, W) in [0, 1]."""
    mean = image.new_tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1)  # (3,) -> (1, 3, 1, 1)
    std = image.new_tensor(IMAGENET_STD).reshape(1, 3, 1, 1)  # (3,) -> (1, 3, 1, 1)
    return (image - mean) / std


def _global_mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True)  # (B, C, H, W) -> (B, C, 1, 1)


def _nearest(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def _enlarge(x: Tensor, size: torch.Size) -> Tensor:
    # The one place with corner-aligned resizing: the published parser was trained with it.
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
