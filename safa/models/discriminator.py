"""Multi-scale patch discriminator, shown the image and where the driving keypoints are.

Source: pix2pixHD (Wang et al., 2018), section 3.2, as the First Order Motion Model uses it;
docs/model.md, section 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.config.model import DiscriminatorConfig, ModelConfig
from safa.geometry.gaussians import gaussian_maps

KERNEL = 4  # px
SLOPE = 0.2  # of the leaky ReLU below 0


@dataclass(frozen=True)
class DiscriminatorOutput:
    """The output of one scale: features, one (B, c, h, w) per block, and score (B, 1, h, w), 1 = real."""

    features: tuple[Tensor, ...]
    score: Tensor


class MultiScaleDiscriminator(nn.Module):
    """One discriminator per scale of the image."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scales = config.discriminator.scales
        in_channels = 3 + config.num_keypoints
        self.discs = nn.ModuleDict(
            {
                _scale_name(scale): ScaleDiscriminator(
                    config.discriminator, in_channels, config.keypoint_variance
                )
                for scale in self.scales
            }
        )

    def forward(self, images: Sequence[Tensor], keypoints: Tensor) -> tuple[DiscriminatorOutput, ...]:
        """Score an image given as one (B, 3, H*s, W*s) per scale s of the config, in that order.

        Args:
            keypoints: (B, K, 2), normalised positions of the driving keypoints.
        """
        if len(images) != len(self.scales):
            raise ValueError(f"{len(images)} images for {len(self.scales)} discriminator scales")
        return tuple(disc(image, keypoints) for disc, image in zip(self.discs.values(), images, strict=True))


class ScaleDiscriminator(nn.Module):
    """Unpadded 4x4 blocks (four in the published sizes) and a 1x1 score."""

    def __init__(self, config: DiscriminatorConfig, in_channels: int, variance: float) -> None:
        super().__init__()
        self.variance = variance
        widths = [
            min(config.max_features, config.block_expansion * 2 ** (i + 1)) for i in range(config.num_blocks)
        ]
        last = config.num_blocks - 1
        self.down_blocks = nn.ModuleList(
            DiscriminatorBlock(in_channels if i == 0 else widths[i - 1], width, norm=i > 0, pool=i < last)
            for i, width in enumerate(widths)
        )
        self.conv = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, image: Tensor, keypoints: Tensor) -> DiscriminatorOutput:
        size = (image.shape[-2], image.shape[-1])
        out = torch.cat([image, gaussian_maps(keypoints, size, self.variance)], dim=1)  # (B, 3 + K, h, w)
        features = []
        for block in self.down_blocks:
            out = block(out)
            features.append(out)
        return DiscriminatorOutput(tuple(features), self.conv(out))


class DiscriminatorBlock(nn.Module):
    """Conv 4x4 without padding, instance norm, leaky ReLU, average pool."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: bool, pool: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, KERNEL)
        self.norm = nn.InstanceNorm2d(out_channels, affine=True) if norm else nn.Identity()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.norm(self.conv(x)), SLOPE)
        return F.avg_pool2d(out, 2) if self.pool else out


def _scale_name(scale: float) -> str:
    """1.0 -> "1", 0.5 -> "0-5": a dot would split a parameter's name."""
    return f"{scale:g}".replace(".", "-")
