"""The 3DMM estimator: from a photo to a 3D head, and from 3D heads to images.

State-dict names are those of the released checkpoint. Trained are the encoder's weights alone; ``forward``
runs exactly these, so it is what a ``DistributedDataParallel`` wrapper has to call, once a step. Geometry,
texture and rendering hold nothing to train and are called on the bare module.
Source: SAFA (Wang et al., 2021), section 3.1; docs/model.md, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from safa.config.model import HeadConfig, ModelConfig
from safa.files import Location
from safa.geometry.gaussians import AntiAlias
from safa.geometry.grids import resize
from safa.head.assets import HeadAssets
from safa.head.model import RAW_SIZE, HeadCode, HeadGeometry, HeadModel, head_of_landmarks, landmarks_px
from safa.head.raster import Fragments, make_rasterizer, rasterize
from safa.head.render import HeadRender, RenderedSide, Surface, bake_texture, render_pair, render_side
from safa.models.backbones.mobilenet_v2 import (
    FEATURE_CHANNELS,
    STEM_STRIDE,
    load_imagenet_weights,
    mobilenet_v2_features,
)
from safa.precision import at_least_float32, full_precision

PUBLISHED_SCALE = 224 / 256  # of AntiAlias; so near 1 that its kernel is one pixel wide and its stride 1


@dataclass(frozen=True)
class HeadEstimate:
    """The encoder's estimate for a batch of faces.

    Attributes:
        code: parameters of the 3D head.
        feature: (B, 1280), the pooled feature that GADE layers are modulated by.
        raw: (B, 159), the linear output before the camera is brought into its range.
    """

    code: HeadCode
    feature: Tensor
    raw: Tensor


class MobileNet(nn.Module):
    """MobileNetV2 features and the linear layer behind them; a module for the sake of its names."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.features = mobilenet_v2_features(
            config.encoder_width, config.encoder_blocks, config.encoder_strides
        )
        linear = nn.Linear(FEATURE_CHANNELS, RAW_SIZE)
        # Training starts from the average head in the middle of the image.
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        self.classifier = nn.Sequential(nn.Dropout(config.dropout), linear)


class PlacedFeatures(nn.Module):
    """What the mean over the encoder's last map (B, 1280, h, w) forgets: where each feature is.

    Lips and lids move by a pixel or two, and a mean over the picture says little of that. It starts by adding
    nothing to the code. It is not part of SAFA.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(FEATURE_CHANNELS, channels, 1)
        self.linear = nn.Linear(channels * side**2, RAW_SIZE)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, maps: Tensor) -> Tensor:
        # (B, 1280, h, w) -> (B, C, h, w) -> (B, C*h*w) -> (B, 159)
        raw: Tensor = self.linear(self.narrow(maps).flatten(1))
        return raw


class HeadEncoder(nn.Module):
    """Images (B, 3, S, S) in [0, 1] to ``feature`` (B, 1280) and ``raw`` (B, 159)."""

    def __init__(self, config: HeadConfig, image_size: int) -> None:
        super().__init__()
        self.input_size = config.encoder_input
        self.model = MobileNet(config)
        self.fc = self.model.classifier[-1]  # released checkpoints name this layer twice
        self.down = AntiAlias(3, PUBLISHED_SCALE)
        side = config.encoder_input or image_size
        for stride in (STEM_STRIDE, *config.encoder_strides):
            side = math.ceil(side / stride)
        self.placed = PlacedFeatures(config.spatial_channels, side) if config.spatial_channels else None

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        image = self.down(image)
        if self.input_size is not None:
            image = resize(image, (self.input_size, self.input_size))
        maps = self.model.features(image)
        feature = maps.mean(dim=(2, 3))  # (B, 1280, h, w) -> (B, 1280)
        raw = self.model.classifier(feature)
        return feature, raw if self.placed is None else raw + self.placed(maps)


class Tdmm(nn.Module):
    """Encoder, head model and renderer. Images are (B, 3, S, S) with S = ``config.image_size``."""

    uvcoords: Tensor  # (1, T, 3), [-1, 1], y down; z is 1
    uvfaces: Tensor  # (1, F, 3)
    face_uvcoords: Tensor  # (1, F, 3, 3)
    faces: Tensor  # (1, F, 3)
    uv_face_eye_mask: Tensor  # (1, 1, uv_size, uv_size)
    uv_face_mask: Tensor
    texel_face_index: Tensor  # the texture layout rasterised; follows from the above, so it is not saved
    texel_zbuf: Tensor
    texel_bary: Tensor

    def __init__(self, config: ModelConfig, assets: HeadAssets) -> None:
        super().__init__()
        self.image_size, self.uv_size = config.image_size, config.head.uv_size
        self._rasterizer = make_rasterizer(config.head.rasterizer)
        self._encoder_bn_frozen = False
        # One head at most, made when it is asked for. In a list, since it is no part of the model's state.
        self._head_of_landmarks: list[HeadModel] = []
        uv_coords = torch.cat(  # three of (T, 1) -> (T, 3)
            [
                assets.uv_coords[:, :1] * 2 - 1,
                -(assets.uv_coords[:, 1:] * 2 - 1),
                torch.ones(len(assets.uv_coords), 1),
            ],
            dim=1,
        )
        self.register_buffer("uvcoords", uv_coords[None])  # (1, T, 3)
        self.register_buffer("uvfaces", assets.uv_faces[None].clone())  # (1, F, 3)
        self.register_buffer("face_uvcoords", uv_coords[assets.uv_faces][None])  # (T, 3) -> (1, F, 3, 3)
        self.register_buffer("faces", assets.faces[None].clone())  # (1, F, 3)
        self.register_buffer("uv_face_eye_mask", self._mask(assets.face_eye_mask))
        self.register_buffer("uv_face_mask", self._mask(assets.face_mask))
        self.encoder = HeadEncoder(config.head, config.image_size)
        self.flame = HeadModel(assets)
        for name in ("texel_face_index", "texel_zbuf", "texel_bary"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        lay_out_texels(self)
        self.register_load_state_dict_post_hook(lay_out_texels)  # type: ignore[no-untyped-call]

    def forward(self, image: Tensor) -> HeadEstimate:
        """Run everything trainable in one call, on images (B, 3, H, W) in [0, 1].

        Samples do not meet while the encoder's BatchNorm is frozen, so source and driving images may be
        stacked.
        """
        feature, raw = self.encoder(image)
        return HeadEstimate(HeadCode.from_raw(at_least_float32(raw)), feature, raw)

    def estimate(self, image: Tensor) -> HeadEstimate:
        """Do what ``forward`` does, under a name that reads better where the bare module is called."""
        return self.forward(image)

    def geometry(self, code: HeadCode) -> HeadGeometry:
        """Vertices and landmarks on the screen."""
        geometry: HeadGeometry = self.flame(code)
        return geometry

    def landmarks(self, code: HeadCode) -> Tensor:
        """The 68 landmarks (B, 68, 2) in pixels that ``geometry`` gives, without the rest of the head."""
        template, few = self.flame.v_template, self._head_of_landmarks
        if (
            not few
            or few[0].v_template.device != template.device
            or few[0].v_template.dtype != template.dtype
        ):
            few[:] = [head_of_landmarks(self.flame)]
        return landmarks_px(few[0](code), self.image_size)

    def texture(self, image: Tensor, geometry: HeadGeometry, *, with_eyes: bool = False) -> Tensor:
        """Albedo (B, 3, uv_size, uv_size) of heads that have this geometry in the images (B, 3, H, W)."""
        mask = self.uv_face_eye_mask if with_eyes else self.uv_face_mask
        return bake_texture(image, geometry, self.surface, mask)

    def render_side(self, geometry: HeadGeometry) -> RenderedSide:
        """One pose without texture; can be kept and used in many ``render`` calls."""
        return render_side(geometry, self.surface, self.image_size, self._rasterizer)

    def render(
        self, source: HeadGeometry | RenderedSide, driving: HeadGeometry, albedo: Tensor
    ) -> HeadRender:
        """The albedo seen in both poses. A source and an albedo of batch 1 serve every driving pose."""
        source_side = source if isinstance(source, RenderedSide) else self.render_side(source)
        return render_pair(source_side, self.render_side(driving), albedo, self.faces[0])

    @property
    def surface(self) -> Surface:
        """The mesh's faces and texture layout on this module's device."""
        texels = Fragments(self.texel_face_index, self.texel_zbuf, self.texel_bary)
        return Surface(self.faces[0], self.face_uvcoords[..., :2], texels)

    def load_encoder_weights(self, path: Location) -> None:
        """Start the encoder's features from ImageNet weights.

        Raises:
            UserError: the file is missing or unreadable, or does not fit.
        """
        load_imagenet_weights(self.encoder.model.features, path)

    def keep_encoder_bn_frozen(self) -> None:
        """Make ``train()`` leave the encoder's BatchNorm layers in eval mode from now on (stage 2)."""
        self._encoder_bn_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Tdmm:
        super().train(mode)
        if self._encoder_bn_frozen:
            for module in self.encoder.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _mask(self, mask: Tensor) -> Tensor:
        """A texture mask resized to (1, 1, uv_size, uv_size) by nearest neighbour."""
        # (M, M) -> (1, 1, uv, uv)
        return F.interpolate(mask[None, None], (self.uv_size, self.uv_size)).clone()


def lay_out_texels(tdmm: Tdmm, _loaded: Any = None) -> None:
    """Rasterise the texture layout, which is the same for all heads, once; again when one is loaded."""
    tdmm._head_of_landmarks.clear()
    with torch.no_grad():
        texels = rasterize(tdmm.uvcoords, tdmm.uvfaces[0], tdmm.uv_size)
    tdmm.texel_face_index, tdmm.texel_zbuf, tdmm.texel_bary = texels.face_index, texels.zbuf, texels.bary


@dataclass(frozen=True)
class HeadBatch:
    """Some consecutive frames and the 3D heads estimated in them.

    Attributes:
        image: (B, 3, S, S) in [0, 1].
        code: parameters, (B, ...).
        geometry: on the screen.
        vertices: (B, V, 3) in model space, metres.
        landmarks: (B, 68, 2) px of the frames.
        albedo: (B, 3, uv, uv) in [0, 1], texture with the eyes.
        render: the textured head in its own pose.
    """

    image: Tensor
    code: HeadCode
    geometry: HeadGeometry
    vertices: Tensor
    landmarks: Tensor
    albedo: Tensor
    render: HeadRender

    def __len__(self) -> int:
        return len(self.image)


@torch.inference_mode()
def heads_of(tdmm: Tdmm, image: Tensor) -> HeadBatch:
    """Estimate the heads in a batch of images (B, 3, S, S) in [0, 1]; under autocast, the encoder alone."""
    code = tdmm.estimate(image).code
    with full_precision(image):
        geometry = tdmm.geometry(code)
        albedo = tdmm.texture(image, geometry, with_eyes=True)
        vertices = tdmm.flame.vertices_in_model_space(code.shape, code.expression, code.rotation, code.jaw)
        landmarks = landmarks_px(geometry, image.shape[-1])
        render = tdmm.render(tdmm.render_side(geometry), geometry, albedo)
    return HeadBatch(image, code, geometry, vertices, landmarks, albedo, render)
