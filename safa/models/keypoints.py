"""Keypoint detector: ten learned points and the local affine frame around each.

Source: First Order Motion Model (Siarohin et al., 2019), section 3.1; docs/model.md, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.config.model import ModelConfig
from safa.geometry.gaussians import AntiAlias
from safa.geometry.grids import identity_grid
from safa.models.blocks import Hourglass
from safa.precision import at_least_float32, full_precision

HEAD_KERNEL = 7  # px, of both heads


@dataclass(frozen=True)
class Keypoints:
    """Points in normalised coordinates (x right, y down, [-1, 1]) with their Jacobians.

    Attributes:
        value: (B, K, 2).
        jacobian: (B, K, 2, 2), d(image)/d(reference frame) at the point, rows x then y.
    """

    value: Tensor
    jacobian: Tensor

    def detach(self) -> Keypoints:
        return Keypoints(self.value.detach(), self.jacobian.detach())


class KeypointDetector(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to ``Keypoints``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_keypoints = config.num_keypoints
        self.temperature = config.keypoints.temperature
        glass = config.keypoints.hourglass
        self.predictor = Hourglass(glass, in_channels=3)
        features = self.predictor.out_channels
        self.kp = nn.Conv2d(features, self.num_keypoints, HEAD_KERNEL)
        self.jacobian = nn.Conv2d(features, 4 * self.num_keypoints, HEAD_KERNEL)
        nn.init.zeros_(self.jacobian.weight)
        with torch.no_grad():  # every Jacobian starts as the identity
            assert self.jacobian.bias is not None
            self.jacobian.bias.copy_(
                torch.eye(2, device="cpu").flatten().repeat(self.num_keypoints)
            )  # (2, 2) -> (4K,)
        self.down = AntiAlias(3, glass.scale_factor)

    def forward(self, *images: Tensor) -> tuple[Keypoints, ...]:
        """Detect in several batches by one call, which is what a DDP wrapper wants.

        Each batch passes through the network on its own: BatchNorm sees one batch at a time and its running
        statistics move once for each.
        """
        return tuple(self.detect(image) for image in images)

    def detect(self, image: Tensor) -> Keypoints:
        """The keypoints of one batch of images (B, 3, H, W)."""
        heat_logits, jacobian_maps = (at_least_float32(maps) for maps in self.maps(image))
        with full_precision(image):
            batch, points, height, width = heat_logits.shape
            heat = F.softmax(heat_logits.flatten(2) / self.temperature, dim=2)  # (B, K, h, w) -> (B, K, h*w)
            # Sums, not matrix products: torch adds pairwise in a sum, which keeps two more digits here.
            # (h, w, 2) -> (1, 1, h*w, 2)
            grid = identity_grid(height, width, dtype=heat.dtype, device=heat.device).reshape(1, 1, -1, 2)
            value = (heat.unsqueeze(-1) * grid).sum(dim=2)  # (B, K, h*w, 1) * (1, 1, h*w, 2) -> (B, K, 2)
            # (B, 4K, h, w) -> (B, K, 4, h*w)
            entries = jacobian_maps.reshape(batch, points, 4, height * width)
            # (B, K, 4, h*w) * (B, K, 1, h*w) -> (B, K, 4) -> (B, K, 2, 2)
            jacobian = (entries * heat.unsqueeze(2)).sum(dim=-1).reshape(batch, points, 2, 2)
        return Keypoints(value, jacobian)

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the heat before the softmax (B, K, h, w) and the Jacobian entries (B, 4K, h, w).

        The 7x7 heads are not padded, so the maps are 6 pixels smaller than the features.
        """
        features = self.predictor(self.down(image))
        # One convolution for both heads: few output channels each, so the features are read once, not twice.
        weight = torch.cat([self.kp.weight, self.jacobian.weight])  # (5K, C, 7, 7)
        assert self.kp.bias is not None
        assert self.jacobian.bias is not None
        bias = torch.cat([self.kp.bias, self.jacobian.bias])  # (5K,)
        both = F.conv2d(features, weight, bias)  # (B, 5K, h, w)
        # (B, K, h, w), (B, 4K, h, w)
        heat, jacobian = torch.split(both, [self.num_keypoints, 4 * self.num_keypoints], dim=1)
        return heat, jacobian
