"""Settings of the losses. A weight of 0 switches its term off: it is then not computed at all."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from safa.config.loader import Settings
from safa.files import Location

MAX_TPS_POINTS = 64


class HeadLossWeights(Settings):
    """Stage 1: the 3DMM alone."""

    landmark: float = Field(default=1.0, ge=0)  # per pixel of the image
    expression: float = Field(default=0.0, ge=0)  # distances of mouth and lids, per pixel; not in the paper
    tdmm_param: float = Field(default=0.001, ge=0)  # of shape and expression coefficients squared


class LossWeights(Settings):
    """Stage 2: everything together. The published weights are the defaults."""

    landmark: float = Field(default=1.0, ge=0)  # per pixel of the image
    expression: float = Field(default=0.0, ge=0)  # distances of mouth and lids, per pixel; not in the paper
    photometric: float = Field(default=1.0, ge=0)  # 3D renders against the images, inside the face masks
    tdmm_param: float = Field(default=0.01, ge=0)
    perceptual: float = Field(default=10.0, ge=0)  # of each layer (or pixel term) at each scale
    generator_gan: float = Field(default=1.0, ge=0)
    feature_matching: float = Field(default=10.0, ge=0)  # of each discriminator block at each scale
    discriminator_gan: float = Field(default=1.0, ge=0)
    equivariance_value: float = Field(default=10.0, ge=0)
    equivariance_jacobian: float = Field(default=10.0, ge=0)
    keypoint_spread: float = Field(default=0.0, ge=0)  # keypoints closer than 0.3; not in the paper

    @property
    def needs_discriminator(self) -> bool:
        """Whether the generator is scored by the discriminator at all."""
        return self.generator_gan > 0 or self.feature_matching > 0

    @property
    def needs_equivariance(self) -> bool:
        """Whether the transformed driving frame has to be made."""
        return self.equivariance_value > 0 or self.equivariance_jacobian > 0


class PerceptualConfig(Settings):
    """What the prediction is compared by.

    ``vgg19`` needs ImageNet weights as a file; ``pixel_pyramid`` compares pixels and their differences and
    needs nothing; ``efficientnet_lite0`` compares features of that network, too, whose weights the package
    index has (extra ``imagenet``). There is no silent fall-back from one to another.
    """

    backend: Literal["vgg19", "efficientnet_lite0", "pixel_pyramid"] = "pixel_pyramid"
    # State dict (.pth or .safetensors): of vgg19 needed, of efficientnet_lite0 in place of the package's.
    weights: Location | None = None
    scales: tuple[float, ...] = Field(default=(1.0, 0.5, 0.25, 0.125), min_length=1)  # of the image

    @model_validator(mode="after")
    def _weights_belong_to_vgg(self) -> Self:
        if self.backend == "vgg19" and self.weights is None:
            raise ValueError("vgg19 needs 'weights', a file; without one choose backend: pixel_pyramid")
        if self.backend == "pixel_pyramid" and self.weights is not None:
            raise ValueError("pixel_pyramid reads no 'weights'; remove it or choose another backend")
        return self


class EquivarianceConfig(Settings):
    """The random transform of the equivariance loss, in normalised units."""

    affine_std: float = Field(default=0.05, ge=0)
    tps_std: float = Field(default=0.005, ge=0)
    tps_points: int = Field(default=5, ge=2, le=MAX_TPS_POINTS)  # control points a side


class PartsConfig(Settings):
    """How much more the perceptual term counts at parts of the driving face; 0 as in the paper."""

    mouth: float = Field(default=0.0, ge=0)
    eyes: float = Field(default=0.0, ge=0)

    @property
    def any(self) -> bool:
        """Whether a part counts more than the rest."""
        return self.mouth > 0 or self.eyes > 0


class LossConfig(Settings):
    """All settings of the stage-2 losses."""

    weights: LossWeights = LossWeights()
    parts: PartsConfig = PartsConfig()
    perceptual: PerceptualConfig = PerceptualConfig()
    equivariance: EquivarianceConfig = EquivarianceConfig()


class HeadLossConfig(Settings):
    """All settings of the stage-1 losses."""

    weights: HeadLossWeights = HeadLossWeights()
