"""Generator: encode the source, deform it, fill what is hidden by geometry and attention, decode.

Channel counts in comments are those of the published sizes.
Source: SAFA (Wang et al., 2021), section 3.3, equations (4)-(6); docs/model.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.config.model import GeneratorConfig, ModelConfig
from safa.geometry.gaussians import AntiAlias
from safa.geometry.grids import identity_grid, resize, warp
from safa.head.render import HeadRender
from safa.models.attention import ContextualAttention
from safa.models.backbones.mobilenet_v2 import FEATURE_CHANNELS
from safa.models.blocks import DownBlock, ResBlock, SameBlock, UpConv
from safa.models.dense_motion import DenseMotion, Motion
from safa.models.keypoints import Keypoints
from safa.precision import at_least_float32

IMAGE_KERNEL = 7  # px
DILATIONS = (1, 2, 4, 8)  # px, of the branches beside the attention
RENDER_CHANNELS = 7  # of the driving render: texture, normals, mask


@dataclass(frozen=True)
class Blend:
    """What a face swap adds: the driving frame is kept outside the mask.

    Attributes:
        image: (B, 3, H, W), the driving image.
        features: (B, C, h, w), ``Generator.encode`` of it.
        mask: (B, 1, M, M) in [0, 1], 1 where the generated face goes; M is a multiple of h.
    """

    image: Tensor
    features: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Generated:
    """The generator's output.

    Attributes:
        prediction: (B, 3, H, W) in [0, 1].
        deformed: (B, 3, H, W), the warped source; it is there to look at and carries no gradient.
        motion: the dense motion behind both.
        source_share: (B, 1, H, W) in [0, 1], how much of the prediction is the source's own pixels; None
            where ``source_pixels`` is off.
    """

    prediction: Tensor
    deformed: Tensor
    motion: Motion
    source_share: Tensor | None


class Generator(nn.Module):
    """Predicts the driving frame from the source image and the motion."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = config.generator
        widths = _widths(sizes)
        narrow, wide = widths[0], widths[-1]
        self.dense_motion_network = DenseMotion(config)
        self.first = SameBlock(3, narrow, IMAGE_KERNEL)
        self.down_blocks = nn.ModuleList(DownBlock(cin, cout) for cin, cout in pairwise(widths))
        self.up_blocks = nn.ModuleList(GadeUpBlock(cin, cout) for cin, cout in pairwise(reversed(widths)))
        self.bottleneck = nn.Sequential()
        for i in range(sizes.num_bottleneck_blocks):
            self.bottleneck.add_module(f"r{i}", ResBlock(wide))
        self.final = nn.Conv2d(narrow, 3, IMAGE_KERNEL, padding=IMAGE_KERNEL // 2)
        self.fc_1 = nn.Linear(FEATURE_CHANNELS, wide)
        self.fc_2 = nn.Linear(FEATURE_CHANNELS, wide)
        self.context_atten_layer = ContextualAttention(sizes.attention)
        branch = wide // len(DILATIONS)
        self.conv00, self.conv01, self.conv02, self.conv03 = (
            _conv_norm_relu(wide, branch, dilation) for dilation in DILATIONS
        )
        self.concat_conv = _conv_norm_relu(wide + branch * len(DILATIONS), wide, 1)
        self.render_encoder = RenderEncoder(widths) if sizes.render_features else None
        self.source_share = nn.Conv2d(narrow, 1, 3, padding=1) if sizes.source_pixels else None

    def encode(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) to features (B, C, H/4, W/4); a still source needs this once."""
        features: Tensor = self.first(image)
        for block in self.down_blocks:
            features = block(features)
        return features

    def forward(
        self,
        source: Tensor,
        kp_source: Keypoints,
        kp_driving: Keypoints,
        render: HeadRender,
        driving_feature: Tensor,
        *,
        source_features: Tensor | None = None,
        blend: Blend | None = None,
    ) -> Generated:
        """Predict the driving frame.

        Args:
            source: (B, 3, H, W) in [0, 1].
            kp_source, kp_driving: keypoints of both frames.
            render: the 3D head drawn in both poses.
            driving_feature: (B, 1280), the 3DMM encoder's feature of the driving frame, for GADE.
            source_features: ``encode(source)`` where it is already known.
            blend: given only for face swapping.
        """
        motion: Motion = self.dense_motion_network(source, kp_source, kp_driving, render)
        features = self.encode(source) if source_features is None else source_features  # (B, 256, H/4, W/4)
        size = (features.shape[-2], features.shape[-1])

        out = warp(features, _resize_grid(motion.deformation, size))
        known = resize(motion.occlusion1, size)  # (B, 1, H/4, W/4)
        scale, shift = self.fc_1(driving_feature), self.fc_2(driving_feature)  # (B, 1280) -> (B, 256) each
        out = _modulate(out, scale, shift, 1 - known)
        drawn = None if self.render_encoder is None else self.render_encoder(render)
        if drawn is not None:
            out = out + drawn.small
        if blend is not None:
            out = _blend(out, blend)
        out = self.bottleneck(out)
        out = self._fill_in(out, resize(motion.occlusion2, size))
        for block in self.up_blocks:
            out = block(out, driving_feature)
        if drawn is not None:
            out = out + drawn.large
        prediction = torch.sigmoid(at_least_float32(self.final(out)))  # (B, 64, H, W) -> (B, 3, H, W)
        share = None
        if self.source_share is not None:
            share = torch.sigmoid(at_least_float32(self.source_share(out)))  # (B, 64, H, W) -> (B, 1, H, W)
            shown = moved_pixels(source, motion.deformation)
            if blend is not None:
                shown = torch.lerp(blend.image, shown, _over_image(blend.mask, shown))
            prediction = torch.lerp(prediction, shown, share)

        with torch.no_grad():
            image_size = (source.shape[-2], source.shape[-1])
            deformed = warp(source, _resize_grid(motion.deformation, image_size))
        return Generated(prediction, deformed, motion, share)

    def _fill_in(self, x: Tensor, occlusion2: Tensor) -> Tensor:
        """Contextual attention beside dilated convolutions: (B, 256, h, w) -> the same shape."""
        attended = self.context_atten_layer(x, x, 1 - occlusion2)
        dilated = [branch(x) for branch in (self.conv00, self.conv01, self.conv02, self.conv03)]
        # (B, 256, h, w) and four of (B, 64, h, w) -> (B, 512, h, w) -> (B, 256, h, w)
        out: Tensor = self.concat_conv(torch.cat([attended, *dilated], dim=1))
        return out


@dataclass(frozen=True)
class RenderFeatures:
    """What the driving render adds to the generator's features.

    Attributes:
        small: (B, 256, H/4, W/4), to the warped source.
        large: (B, 64, H, W), to what becomes the prediction.
    """

    small: Tensor
    large: Tensor


class RenderEncoder(nn.Module):
    """Encodes the 3D head in the driving pose: where the mouth is open, to the pixel.

    In the paper the render reaches the generator through the dense motion alone, which moves pixels of the
    source and has none of a mouth's inside. It starts by adding nothing. It is not part of SAFA.
    """

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        narrow, wide = widths[0], widths[-1]
        self.first = SameBlock(RENDER_CHANNELS, narrow, 3)
        self.down_blocks = nn.Sequential(*(DownBlock(cin, cout) for cin, cout in pairwise(widths)))
        self.small = nn.Conv2d(wide, wide, 1)
        self.large = nn.Conv2d(narrow, narrow, 3, padding=1)
        for conv in (self.small, self.large):
            nn.init.zeros_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, render: HeadRender) -> RenderFeatures:
        # three of (B, c, H, W) -> (B, 7, H, W)
        maps = torch.cat([render.reenact, render.driving_normals, render.driving_mask], dim=1)
        features = self.first(maps)
        return RenderFeatures(self.small(self.down_blocks(features)), self.large(features))


class GadeUpBlock(nn.Module):
    """Up block whose output is re-scaled, where its own mask says so, by the driving geometry.

    (B, cin, H, W) and feature (B, 1280) -> (B, cout, 2H, 2W).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = UpConv(in_channels, out_channels)
        self.norm = nn.BatchNorm2d(out_channels)
        self.fc_1 = nn.Linear(FEATURE_CHANNELS, out_channels)
        self.fc_2 = nn.Linear(FEATURE_CHANNELS, out_channels)
        self.conv_f = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, driving_feature: Tensor) -> Tensor:
        h = self.norm(self.conv(x))
        mask = torch.sigmoid(self.conv_f(h))
        return F.relu(_modulate(h, self.fc_1(driving_feature), self.fc_2(driving_feature), mask))


def _modulate(x: Tensor, scale: Tensor, shift: Tensor, mask: Tensor) -> Tensor:
    """GADE: ``mask * (scale * x + shift) + (1 - mask) * x`` with (B, C) scale and shift."""
    modulated = torch.addcmul(shift[..., None, None], scale[..., None, None], x)  # (B, C) -> (B, C, 1, 1)
    return torch.lerp(x, modulated, mask.expand_as(x))  # (B, 1 or C, H, W) -> (B, C, H, W)


def _blend(out: Tensor, blend: Blend) -> Tensor:
    """Driving features outside the mask, ``out`` inside; the mask is anti-aliased down to their size."""
    down = AntiAlias(1, out.shape[-1] / blend.mask.shape[-1]).to(out)
    mask = down(blend.mask).to(out).expand_as(out)  # (1 or B, 1, h, w) -> (B, C, h, w)
    # Under autocast the convolved features are of lower precision than what has been modulated.
    return torch.lerp(blend.features.to(out), out, mask)


def moved_pixels(source: Tensor, deformation: Tensor) -> Tensor:
    """The source image (B, 3, H, W) of any size, moved by a deformation (B, h, w, 2).

    What the decoder paints has passed through features of a quarter of the size. What only moves needs no
    painting. Resized is the flow and not its positions, and these are read as corner-aligned, so that what
    does not move stays as it is. It is not part of SAFA.
    """
    height, width = source.shape[-2:]
    h, w = deformation.shape[1:3]
    dtype, device = deformation.dtype, source.device
    flow = _resize_grid(deformation - identity_grid(h, w, dtype=dtype, device=device), (height, width))
    grid = identity_grid(height, width, dtype=dtype, device=device) + flow  # (H, W, 2) + (B, H, W, 2)
    grid = grid * grid.new_tensor([(width - 1) / width, (height - 1) / height])  # what ``warp`` reads by
    return warp(source, grid, "reflection")


def _over_image(mask: Tensor, image: Tensor) -> Tensor:
    """A mask (1 or B, 1, M, M) at the size of an image: (B, 3, H, W)."""
    # (1 or B, 1, M, M) -> (1 or B, 1, H, W) -> (B, 3, H, W)
    return resize(mask, (image.shape[-2], image.shape[-1])).to(image).expand_as(image)


def _conv_norm_relu(in_channels: int, out_channels: int, dilation: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def _resize_grid(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a grid (B, h, w, 2) bilinearly to (B, H, W, 2), ``size`` = (H, W)."""
    if (grid.shape[1], grid.shape[2]) == size:
        return grid
    # (B, h, w, 2) -> (B, 2, h, w) -> (B, H, W, 2)
    return resize(grid.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)


def _widths(config: GeneratorConfig) -> list[int]:
    """Channels after the first block and after each down block."""
    count = config.num_down_blocks + 1
    return [min(config.max_features, config.block_expansion * 2**i) for i in range(count)]
