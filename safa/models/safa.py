"""SAFA as a whole: how the three networks that animate depend on each other.

The state dict is that of the released checkpoint, one prefix per network (``kp_detector.``, ``tdmm.``,
``generator.``). The discriminator belongs to training and is not part of it.
Source: SAFA (Wang et al., 2021), figure 2; docs/model.md, sections 2 to 5 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from safa.config.model import ModelConfig
from safa.head.assets import HeadAssets
from safa.head.model import HeadCode
from safa.head.render import HeadRender, RenderedSide
from safa.models.dense_motion import Motion
from safa.models.generator import Blend, Generated, Generator
from safa.models.keypoints import KeypointDetector, Keypoints
from safa.models.tdmm import HeadEstimate, Tdmm
from safa.precision import at_least_float32, full_precision
from safa.tensor_tree import map_tensors


@dataclass(frozen=True)
class FaceState:
    """What the model sees in a batch of frames.

    Attributes:
        keypoints: (B, K, ...).
        code: the 3D head's parameters, (B, ...).
        feature: (B, 1280), the 3DMM encoder's feature.
    """

    keypoints: Keypoints
    code: HeadCode
    feature: Tensor


@dataclass(frozen=True)
class SourceCache:
    """All work on a source image that does not depend on the driving frame; batch 1 or as many as drive.

    Attributes:
        image: (B, 3, H, W).
        face: its ``FaceState``.
        side: the 3D head rasterised in the source pose.
        albedo: (B, 3, uv, uv), texture without the eyes.
        features: (B, C, H/4, W/4), ``Generator.encode`` of the image.
    """

    image: Tensor
    face: FaceState
    side: RenderedSide
    albedo: Tensor
    features: Tensor


@dataclass(frozen=True)
class Reenactment:
    """A source animated by a driving state.

    Attributes:
        prediction: (B, 3, H, W) in [0, 1].
        deformed: (B, 3, H, W), the warped source alone.
        motion: dense motion.
        render: the 3D head in both poses.
        kp_driving: the driving keypoints used.
        source_share: (B, 1, H, W), of the source's own pixels in the prediction, or None; see ``Generated``.
    """

    prediction: Tensor
    deformed: Tensor
    motion: Motion
    render: HeadRender
    kp_driving: Keypoints
    source_share: Tensor | None


class Safa(nn.Module):
    """Keypoint detector, 3DMM and generator."""

    def __init__(self, config: ModelConfig, assets: HeadAssets) -> None:
        super().__init__()
        self.config = config
        self.kp_detector = KeypointDetector(config)
        self.tdmm = Tdmm(config, assets)
        self.generator = Generator(config)

    def analyse(self, image: Tensor) -> FaceState:
        """Find keypoints and 3D head in images (B, 3, H, W) in [0, 1].

        Keypoints and head are of float32 at least, also under autocast.
        """
        estimate: HeadEstimate = self.tdmm.estimate(image)
        code = map_tensors(at_least_float32, estimate.code)
        return FaceState(self.kp_detector.detect(image), code, estimate.feature)

    def prepare_source(self, image: Tensor) -> SourceCache:
        """Do everything that depends on the source alone, once for all driving frames."""
        face = self.analyse(image)
        with full_precision(image):
            geometry = self.tdmm.geometry(face.code)
            side, albedo = self.tdmm.render_side(geometry), self.tdmm.texture(image, geometry)
        return SourceCache(image, face, side, albedo, self.generator.encode(image))

    def reenact(self, source: SourceCache, driving: FaceState, *, blend: Blend | None = None) -> Reenactment:
        """Animate the source by driving states (B, ...), transferred by ``safa.inference.motion_transfer``.

        A source of batch 1 serves every driving state.
        """
        batch = len(driving.feature)
        with full_precision(source.image):
            render = self.tdmm.render(source.side, self.tdmm.geometry(driving.code), source.albedo)
        generated: Generated = self.generator(
            _repeat(source.image, batch),
            map_tensors(lambda tensor: _repeat(tensor, batch), source.face.keypoints),
            driving.keypoints,
            render,
            driving.feature,
            source_features=_repeat(source.features, batch),
            blend=blend,
        )
        return Reenactment(
            *(generated.prediction, generated.deformed, generated.motion),
            *(render, driving.keypoints, generated.source_share),
        )


def _repeat(tensor: Tensor, batch: int) -> Tensor:
    """A tensor of batch 1 seen as a larger batch, without copying it."""
    return tensor if len(tensor) == batch else tensor.expand(batch, *tensor.shape[1:])  # (1, ...) -> (B, ...)


@dataclass(frozen=True)
class AnimatedBatch:
    """Some consecutive driving frames and the animation that they drive.

    Attributes:
        driving: (B, 3, S, S) in [0, 1], on the model's device.
        face: the state of the driving frames themselves, before any transfer.
        result: the source, animated.
        mask: (B, 1, M, M) in [0, 1], where the source's face goes in a face swap; else None.
    """

    driving: Tensor
    face: FaceState
    result: Reenactment
    mask: Tensor | None = None
