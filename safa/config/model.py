"""Settings of the networks. The defaults are the published sizes (256 px); configs shrink them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from safa.config.loader import Settings
from safa.files import Location

# Upper bounds are far above any model of the field: a file of a stranger brings these settings along.
Blocks = Annotated[int, Field(ge=1, le=64)]
Channels = Annotated[int, Field(ge=1, le=4096)]
Stride = Literal[1, 2]
Scale = Annotated[float, Field(gt=0, le=1)]  # of the image
RasterizerName = Literal["native", "pytorch3d"]


class HourglassConfig(Settings):
    """An hourglass at reduced resolution: ``block_expansion * 2**i`` channels, capped at ``max_features``."""

    block_expansion: Channels
    num_blocks: int = Field(ge=1, le=10)
    max_features: Channels
    scale_factor: float = Field(default=0.25, gt=0, le=1)  # of the image; 1/scale is a whole number


class KeypointConfig(Settings):
    """FOMM keypoint detector."""

    hourglass: HourglassConfig = HourglassConfig(block_expansion=32, num_blocks=5, max_features=1024)
    temperature: float = Field(default=0.1, gt=0)  # of the heat map softmax


class HeadConfig(Settings):
    """The 3D head and its estimator."""

    assets: Location | None = None  # a .npz of `safa assets convert`; None = the built-in head
    encoder_width: float = Field(default=1.0, gt=0, le=8)  # of MobileNetV2; the feature stays 1280-d
    # MobileNetV2's seven stages (Sandler et al., 2018, table 2): blocks of each, and stride of its first.
    # The published strides halve a picture five times, which leaves too little of a small one.
    encoder_blocks: tuple[Blocks, Blocks, Blocks, Blocks, Blocks, Blocks, Blocks] = (1, 2, 3, 4, 3, 3, 1)
    encoder_strides: tuple[Stride, Stride, Stride, Stride, Stride, Stride, Stride] = (1, 2, 2, 2, 1, 2, 1)
    # px; None = the published AntiAlias rule, i.e. the image as it is
    encoder_input: int | None = Field(default=None, ge=32, le=2048)
    encoder_weights: Location | None = None  # ImageNet MobileNetV2 state dict; None = random start
    # Channels that keep their place in the encoder's last map, beside the mean over it; 0 as in the paper.
    spatial_channels: int = Field(default=0, ge=0, le=4096)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    uv_size: int = Field(default=256, ge=16, le=4096)  # texels a side of the albedo
    rasterizer: RasterizerName = "native"  # in training; a program that runs the model chooses its own


class AttentionConfig(Settings):
    """Contextual attention (Yu et al., 2018)."""

    rate: int = Field(default=2, ge=1, le=16)
    kernel_size: int = Field(default=3, ge=1, le=15)
    softmax_scale: float = Field(default=10.0, gt=0)
    fuse_kernel: int = Field(default=3, ge=1, le=15)


class GeneratorConfig(Settings):
    """Occlusion-aware generator with GADE layers."""

    block_expansion: Channels = 64
    max_features: Channels = 512
    num_down_blocks: int = Field(default=2, ge=1, le=6)
    num_bottleneck_blocks: int = Field(default=6, ge=0, le=64)
    dense_motion: HourglassConfig = HourglassConfig(block_expansion=64, num_blocks=5, max_features=1024)
    attention: AttentionConfig = AttentionConfig()
    render_features: bool = False  # the driving frame's render enters the decoder, too; not in the paper
    source_pixels: bool = False  # the prediction may show the warped source's own pixels; not in the paper


class DiscriminatorConfig(Settings):
    """Multi-scale patch discriminator."""

    scales: tuple[Scale, ...] = Field(default=(1.0, 0.5, 0.25), max_length=8)
    block_expansion: Channels = 32
    num_blocks: int = Field(default=4, ge=1, le=10)
    max_features: Channels = 512


class ModelConfig(Settings):
    """Every size of SAFA. ``ModelConfig()`` is the published model."""

    image_size: int = Field(default=256, ge=32, le=2048)  # px, square
    num_keypoints: int = Field(default=10, ge=1, le=256)
    keypoint_variance: float = Field(default=0.01, gt=0)  # of the Gaussian maps, in normalised units squared
    keypoints: KeypointConfig = KeypointConfig()
    head: HeadConfig = HeadConfig()
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        for name, glass in (
            ("keypoints.hourglass", self.keypoints.hourglass),
            ("generator.dense_motion", self.generator.dense_motion),
        ):
            side = int(self.image_size * glass.scale_factor)
            if side < 1 or side % (2**glass.num_blocks):
                raise ValueError(
                    f"{name}.num_blocks={glass.num_blocks} does not fit a {side} px input: "
                    f"{side} (image_size times scale_factor) must be divisible by 2**num_blocks"
                )
        for scale in self.discriminator.scales:
            if smallest_discriminator_input(self.discriminator.num_blocks) > self.image_size * scale:
                raise ValueError(
                    f"discriminator.num_blocks={self.discriminator.num_blocks} does not fit scale {scale} "
                    f"of a {self.image_size} px image"
                )
        return self

    def with_rasterizer(self, name: RasterizerName) -> ModelConfig:
        """The same model, drawn by another rasteriser; its weights do not depend on it."""
        return self.model_copy(update={"head": self.head.model_copy(update={"rasterizer": name})})


def smallest_discriminator_input(num_blocks: int) -> int:
    """Smallest input side (px) for which ``num_blocks`` unpadded 4x4 blocks leave 2 x 2 pixels.

    One pixel is not enough: the last block's instance norm has nothing to compare it with.
    """
    side = 2 + 3  # the last block does not pool
    for _ in range(num_blocks - 1):
        side = 2 * side + 3
    return side
