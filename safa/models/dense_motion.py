"""Dense motion: K keypoint motions, the background and the 3D head's motion blended into one flow.

Everything happens at ``scale_factor`` of the image (64 x 64 for 256 px). K is the number of keypoints;
motions are ordered background, keypoints, 3D head: K + 2 in all.
Source: SAFA (Wang et al., 2021), section 3.2; First Order Motion Model (Siarohin et al., 2019), section 3.2;
docs/model.md, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.config.model import ModelConfig
from safa.geometry.gaussians import AntiAlias, gaussian_maps
from safa.geometry.grids import identity_grid, warp
from safa.geometry.matrices import inverse_2x2
from safa.head.render import HeadRender
from safa.models.blocks import Hourglass
from safa.models.keypoints import Keypoints
from safa.precision import at_least_float32, full_precision

HEAD_KERNEL = 7  # px
IMAGE_CHANNELS = 3  # RGB
NORMAL_Z = 2  # component of a normal map that points along the view


@dataclass(frozen=True)
class Motion:
    """Says what moves where, at (h, w) = image size * scale.

    Attributes:
        masks: (B, K+2, h, w), the share of each motion; sums to 1.
        deformation: (B, h, w, 2), for each driving pixel the source position in normalised coordinates.
        occlusion1: (B, 1, h, w) in [0, 1], 0 where the driving geometry has to say what is there (GADE).
        occlusion2: (B, 1, h, w) in [0, 1], 0 where contextual attention may fill in.
        warped_sources: (B, K+1, 3, h, w), the source moved by the background's and each keypoint's motion.
        motion_field: (B, 2, h, w), the 3D head's motion as absolute source positions.
    """

    masks: Tensor
    deformation: Tensor
    occlusion1: Tensor
    occlusion2: Tensor
    warped_sources: Tensor
    motion_field: Tensor


class DenseMotion(nn.Module):
    """Blend the sparse motions into one ``Motion``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        glass = config.generator.dense_motion
        self.variance = config.keypoint_variance
        self.num_motions = config.num_keypoints + 2
        self.hourglass = Hourglass(glass, in_channels=self.num_motions * (1 + IMAGE_CHANNELS))
        features = self.hourglass.out_channels
        self.mask = nn.Conv2d(features, self.num_motions, HEAD_KERNEL, padding=HEAD_KERNEL // 2)
        self.occlusion = nn.Conv2d(features, 1, HEAD_KERNEL, padding=HEAD_KERNEL // 2)
        self.occlusion1 = nn.Conv2d(features, 1, HEAD_KERNEL, padding=HEAD_KERNEL // 2)
        self.down = AntiAlias(IMAGE_CHANNELS, glass.scale_factor)
        self.down_motion = AntiAlias(2, glass.scale_factor)

    def forward(
        self, source: Tensor, kp_source: Keypoints, kp_driving: Keypoints, render: HeadRender
    ) -> Motion:
        """Compute the motion from the source image (B, 3, H, W), both frames' keypoints and their renders."""
        with full_precision(source):
            motions, results, heat = self._sparse_motions(source, kp_source, kp_driving, render)
        inputs = torch.cat([heat, results], dim=2).flatten(1, 2)  # (B, M, 1 + 3, h, w) -> (B, M*4, h, w)
        features = self.hourglass(inputs)
        mask_logits, occlusion1_logit, occlusion2_logit = self._heads(features)
        masks = F.softmax(mask_logits, dim=1)
        return Motion(
            masks=masks,
            # (B, M, h, w, 1) * (B, M, h, w, 2) -> (B, h, w, 2)
            deformation=(masks.unsqueeze(-1) * motions).sum(dim=1),
            occlusion1=torch.sigmoid(occlusion1_logit),
            occlusion2=torch.sigmoid(occlusion2_logit),
            warped_sources=results[:, :-1],  # (B, K+1, 3, h, w)
            motion_field=motions[:, -1].permute(0, 3, 1, 2),  # (B, h, w, 2) -> (B, 2, h, w)
        )

    def _sparse_motions(
        self, source: Tensor, kp_source: Keypoints, kp_driving: Keypoints, render: HeadRender
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The M = K + 2 motions (B, M, h, w, 2), what each makes of the source (B, M, 3, h, w), and where
        each happens (B, M, 1, h, w).
        """
        # (4B, 3, H, W)
        images = torch.cat([source, render.reenact, render.source_normals, render.driving_normals])
        # (4B, 3, h, w) -> four of (B, 3, h, w)
        small_source, reenact, source_normals, driving_normals = self.down(images).chunk(4)
        h, w = small_source.shape[-2:]
        grid = identity_grid(h, w, dtype=source.dtype, device=source.device)

        # (B, 2, h, w) -> (B, h, w, 2); adding the identity makes it absolute
        field = self.down_motion(render.motion_field).permute(0, 2, 3, 1) + grid
        points = keypoint_motions(kp_source, kp_driving, grid)  # (B, K, h, w, 2)
        background = grid.expand(source.shape[0], 1, h, w, 2)  # (B, 1, h, w, 2)
        motions = torch.cat([background, points, field.unsqueeze(1)], dim=1)  # (B, M, h, w, 2)

        warped = _warp_by_each(small_source, motions[:, :-1])  # (B, K+1, 3, h, w)
        results = torch.cat([warped, reenact.unsqueeze(1)], dim=1)  # (B, M, 3, h, w)
        normal_change = driving_normals[:, NORMAL_Z] - source_normals[:, NORMAL_Z]  # (B, h, w)
        return motions, results, self._heat_maps(kp_source, kp_driving, normal_change)

    def _heat_maps(self, kp_source: Keypoints, kp_driving: Keypoints, normal_change: Tensor) -> Tensor:
        """Where each motion happens: (B, K+2, 1, h, w)."""
        size = (normal_change.shape[-2], normal_change.shape[-1])
        driving = gaussian_maps(kp_driving.value, size, self.variance)
        points = driving - gaussian_maps(kp_source.value, size, self.variance)  # (B, K, h, w)
        background = torch.zeros_like(points[:, :1])  # (B, 1, h, w)
        # (B, K+2, h, w) -> (B, K+2, 1, h, w)
        return torch.cat([background, points, -normal_change.unsqueeze(1)], dim=1).unsqueeze(2)

    def _heads(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mask, occlusion 1 and occlusion 2 before their activations, by one convolution."""
        heads = (self.mask, self.occlusion, self.occlusion1)
        weight = torch.cat([head.weight for head in heads])  # (M + 2, C, 7, 7)
        bias = torch.cat([head.bias for head in heads if head.bias is not None])  # (M + 2,)
        out = F.conv2d(features, weight, bias, padding=HEAD_KERNEL // 2)
        # (B, M + 2, h, w) -> (B, M, h, w), (B, 1, h, w), (B, 1, h, w)
        masks, occlusion1, occlusion2 = torch.split(at_least_float32(out), [self.num_motions, 1, 1], dim=1)
        return masks, occlusion1, occlusion2


def keypoint_motions(kp_source: Keypoints, kp_driving: Keypoints, grid: Tensor) -> Tensor:
    """First-order motion around each keypoint: (B, K, h, w, 2), absolute source positions.

    For a driving position z: ``J_s J_d^-1 (z - p_d) + p_s`` (First Order Motion Model, section 3.1).
    """
    h, w = grid.shape[:2]
    batch, points = kp_driving.value.shape[:2]
    affine = kp_source.jacobian @ inverse_2x2(kp_driving.jacobian)  # (B, K, 2, 2)
    # (1, 1, h*w, 2) - (B, K, 1, 2) -> (B, K, h*w, 2)
    offset = grid.reshape(1, 1, h * w, 2) - kp_driving.value.unsqueeze(2)
    # (B, K, h*w, 2) @ (B, K, 2, 2) + (B, K, 1, 2) -> (B, K, h*w, 2)
    moved: Tensor = offset @ affine.transpose(-1, -2) + kp_source.value.unsqueeze(2)
    return moved.reshape(batch, points, h, w, 2)  # (B, K, h*w, 2) -> (B, K, h, w, 2)


def _warp_by_each(image: Tensor, motions: Tensor) -> Tensor:
    """Warp one image (B, 3, h, w) by M motions: (B, M, 3, h, w).

    The motions are stacked along the rows of one sampling grid, so the image is not copied M times.
    """
    batch, count, h, w, _ = motions.shape
    # (B, M, h, w, 2) -> (B, M*h, w, 2) -> (B, 3, M*h, w)
    stacked = warp(image, motions.reshape(batch, count * h, w, 2))
    return stacked.reshape(batch, -1, count, h, w).transpose(1, 2)  # (B, 3, M, h, w) -> (B, M, 3, h, w)
