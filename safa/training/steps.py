"""One training step of each stage: modules and a batch in, weighted losses out. No optimiser in here.

The order within a stage-2 step is the caller's: ``generator_step`` -> backward -> step the generator, the
keypoint detector and the 3DMM -> ``discriminator_step`` -> backward -> step the discriminator.

Each network may be wrapped in ``DistributedDataParallel`` on its own. For that, everything trainable is
called through ``forward`` and exactly once between two backward passes:

- ``kp_detector(source, driving, transformed)``: three batches, each normalised by its own statistics;
- ``tdmm(images)``: source and driving stacked, since its BatchNorm is fixed and samples do not meet;
- ``generator(...)`` once;
- ``discriminator(...)``: once in ``discriminator_step``, on real and predicted images stacked (InstanceNorm
  keeps samples apart). In ``generator_step`` it is called with detached parameters: nothing of it is trained
  there, so the wrapper is bypassed and no gradient is left on it.

Running statistics need no broadcast when SyncBatchNorm is used: wrap with ``broadcast_buffers=False``.
Source: docs/model.md, section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from safa import losses
from safa.config.losses import HeadLossConfig, LossConfig, LossWeights
from safa.config.model import ModelConfig
from safa.data.sampler import FrameBatch, PairBatch
from safa.geometry.tps import EquivarianceTransform
from safa.head.model import HeadCode, HeadGeometry, landmarks_px
from safa.head.render import HeadRender
from safa.models.backbones.efficientnet_lite import SMALLEST_INPUT, load_efficientnet_lite
from safa.models.backbones.vgg19 import load_vgg19
from safa.models.blocks import ImagePyramid, Pyramid
from safa.models.discriminator import DiscriminatorOutput
from safa.models.generator import Generated
from safa.models.keypoints import Keypoints
from safa.models.tdmm import HeadEstimate, Tdmm
from safa.precision import at_least_float32, full_precision
from safa.tensor_tree import halves, map_tensors


@dataclass(frozen=True)
class Losses:
    """Weighted loss terms by name; a term whose weight is 0 is absent."""

    terms: Mapping[str, Tensor]

    @property
    def total(self) -> Tensor:
        """Sum of all terms, a scalar that carries the graph."""
        if not self.terms:
            raise ValueError("every loss weight is 0: there is nothing to train")
        return torch.stack(list(self.terms.values())).sum()  # scalars -> (terms,) -> ()


@dataclass(frozen=True)
class Networks:
    """The four networks of a training step, each bare or wrapped in ``DistributedDataParallel``."""

    kp_detector: nn.Module
    tdmm: nn.Module
    generator: nn.Module
    discriminator: nn.Module


class PixelsAndFeatures(nn.Module):
    """Images (B, 3, H, W) to what ``pixel_features`` gives, and a network's maps unless they are too small.

    A network that begins by halving the image does not see each pixel, so they are compared as well.
    """

    SHARE = 0.1  # of the network's maps, whose differences are larger

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        pixels = losses.pixel_features(image)
        if min(image.shape[-2:]) < SMALLEST_INPUT:
            return pixels
        return (*pixels, *(self.SHARE * each for each in self.network(image)))


class Criteria(nn.Module):
    """What the stage-2 losses need and does not learn: image pyramid, feature network, settings."""

    def __init__(self, config: LossConfig, model: ModelConfig) -> None:
        """Raises ``UserError`` if the perceptual backend's weights cannot be read."""
        super().__init__()
        self.config = config
        self.discriminator_scales = model.discriminator.scales
        self.pyramid = ImagePyramid(
            sorted({*config.perceptual.scales, *model.discriminator.scales}, reverse=True)
        )
        self.network: nn.Module | None = None
        backend, weights = config.perceptual.backend, config.perceptual.weights
        if config.weights.perceptual > 0 and backend == "vgg19":
            assert weights is not None, "the settings see to that"
            self.network = load_vgg19(weights)
        elif config.weights.perceptual > 0 and backend == "efficientnet_lite0":
            self.network = PixelsAndFeatures(load_efficientnet_lite(weights))

    @property
    def features(self) -> losses.FeatureMaps:
        """What the perceptual loss compares."""
        return losses.pixel_features if self.network is None else self.network

    def part_weights(self, batch: PairBatch) -> Tensor | None:
        """How much each pixel of the driving frames counts, (B, 1, H, W); None if all count alike."""
        parts = self.config.parts
        if not parts.any:
            return None
        size = batch.driving.shape[-1]
        return losses.part_weights(batch.driving_landmarks, size, parts.mouth, parts.eyes)

    def transform(self, batch: int, rng: torch.Generator, like: Tensor) -> EquivarianceTransform:
        """A random transform per sample. Drawn on the CPU, so that a seed means the same on every device."""
        settings = self.config.equivariance
        return EquivarianceTransform.random(
            batch,
            rng,
            affine_std=settings.affine_std,
            tps_std=settings.tps_std,
            points=settings.tps_points,
        ).to(like)


@dataclass(frozen=True)
class StepOutputs:
    """What a generator step computed, for ``discriminator_step`` and for images of it.

    ``real`` and ``fake`` are detached pyramids of the driving frame and of the prediction.
    """

    generated: Generated
    render: HeadRender
    kp_source: Keypoints
    kp_driving: Keypoints
    real: Pyramid
    fake: Pyramid


@dataclass(frozen=True)
class GeneratorStep:
    """Losses of the generator, the keypoint detector and the 3DMM, and what they were computed from."""

    losses: Losses
    outputs: StepOutputs


# ---- stage 1 -----------------------------------------------------------------------------------------------


def head_step(tdmm: nn.Module, batch: FrameBatch, config: HeadLossConfig) -> Losses:
    """Losses of the 3DMM alone, terms ``landmark``, ``expression`` and ``tdmm_param``."""
    estimate: HeadEstimate = tdmm(batch.image)
    weights = config.weights
    terms = _Terms()
    with full_precision(batch.image):
        code = map_tensors(at_least_float32, estimate.code)
        if weights.landmark > 0 or weights.expression > 0:
            predicted = _tdmm(tdmm).landmarks(code)
            terms.add("landmark", weights.landmark, lambda: losses.landmark(predicted, batch.landmarks))
            terms.add("expression", weights.expression, lambda: losses.expression(predicted, batch.landmarks))
        terms.add("tdmm_param", weights.tdmm_param, lambda: losses.tdmm_param(code))
    return Losses(terms)


# ---- stage 2 -----------------------------------------------------------------------------------------------


def generator_step(
    networks: Networks, batch: PairBatch, criteria: Criteria, rng: torch.Generator
) -> GeneratorStep:
    """Animate the source into the driving frame and measure everything but the discriminator's own loss."""
    weights = criteria.config.weights
    transform = None
    frames = [batch.source, batch.driving]
    if weights.needs_equivariance:
        transform = criteria.transform(len(batch), rng, batch.driving)
        frames.append(transform.warp_frame(batch.driving))
    keypoints: tuple[Keypoints, ...] = networks.kp_detector(*frames)
    kp_source, kp_driving = keypoints[:2]

    head = _heads(networks.tdmm, batch)
    generated: Generated = networks.generator(
        batch.source, kp_source, kp_driving, head.render, head.driving_feature
    )
    with torch.no_grad():
        real = criteria.pyramid(batch.driving)
    fake = criteria.pyramid(generated.prediction)

    terms = _Terms()
    _add_head_terms(terms, weights, head, batch)
    scales = criteria.config.perceptual.scales
    terms.add(
        "perceptual",
        weights.perceptual,
        lambda: losses.perceptual(
            fake.at(scales), real.at(scales), criteria.features, criteria.part_weights(batch)
        ),
    )
    if weights.needs_discriminator:
        _add_adversarial_terms(terms, weights, networks.discriminator, criteria, real, fake, kp_driving)
    terms.add("keypoint_spread", weights.keypoint_spread, lambda: losses.keypoint_spread(kp_driving))
    if transform is not None:
        _add_equivariance_terms(terms, weights, kp_driving, transform, keypoints[2])
    outputs = StepOutputs(generated, head.render, kp_source, kp_driving, real, fake.detach())
    return GeneratorStep(Losses(terms), outputs)


def discriminator_step(networks: Networks, outputs: StepOutputs, criteria: Criteria) -> Losses:
    """Loss of the discriminator on the frames of a generator step, all of them detached."""
    scales = criteria.discriminator_scales
    keypoints = outputs.kp_driving.value.detach()
    images = [  # one (2B, 3, h, w) per scale
        torch.cat([real, fake])
        for real, fake in zip(outputs.real.at(scales), outputs.fake.at(scales), strict=True)
    ]
    both = networks.discriminator(images, torch.cat([keypoints, keypoints]))  # two of (B, K, 2) -> (2B, K, 2)
    real, fake = zip(*(halves(output) for output in both), strict=True)
    terms = _Terms()
    terms.add(
        "discriminator_gan",
        criteria.config.weights.discriminator_gan,
        lambda: losses.discriminator_gan(real, fake),
    )
    return Losses(terms)


# ---- parts -------------------------------------------------------------------------------------------------


class _Terms(dict[str, Tensor]):
    """Weighted terms; a weight of 0 means that the term is never computed."""

    def add(self, name: str, weight: float, compute: Callable[[], Tensor]) -> None:
        if weight > 0:
            self[name] = weight * compute()


@dataclass(frozen=True)
class _Heads:
    """The 3D heads of both frames, (B, ...) each."""

    source_code: HeadCode
    driving_code: HeadCode
    source_geometry: HeadGeometry
    driving_geometry: HeadGeometry
    driving_feature: Tensor
    render: HeadRender


def _heads(tdmm: nn.Module, batch: PairBatch) -> _Heads:
    # two of (B, 3, H, W) -> (2B, 3, H, W)
    estimate: HeadEstimate = tdmm(torch.cat([batch.source, batch.driving]))
    bare = _tdmm(tdmm)
    with full_precision(batch.source):
        code = map_tensors(at_least_float32, estimate.code)
        source_code, driving_code = halves(code)
        source_geometry, driving_geometry = halves(bare.geometry(code))
        albedo = bare.texture(batch.source, source_geometry)
        render = bare.render(source_geometry, driving_geometry, albedo)
    driving_feature = estimate.feature.chunk(2)[1]  # (2B, 1280) -> (B, 1280)
    return _Heads(source_code, driving_code, source_geometry, driving_geometry, driving_feature, render)


def _add_head_terms(terms: _Terms, weights: LossWeights, head: _Heads, batch: PairBatch) -> None:
    size = batch.source.shape[-1]

    def of_both(loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The loss of both frames' landmarks, summed."""
        source = loss(landmarks_px(head.source_geometry, size), batch.source_landmarks)
        return source + loss(landmarks_px(head.driving_geometry, size), batch.driving_landmarks)

    terms.add("landmark", weights.landmark, lambda: of_both(losses.landmark))
    terms.add("expression", weights.expression, lambda: of_both(losses.expression))
    terms.add(
        "photometric",
        weights.photometric,
        lambda: losses.photometric(head.render, batch.source, batch.driving),
    )
    terms.add(
        "tdmm_param",
        weights.tdmm_param,
        lambda: losses.tdmm_param(head.source_code) + losses.tdmm_param(head.driving_code),
    )


def _add_adversarial_terms(
    terms: _Terms,
    weights: LossWeights,
    discriminator: nn.Module,
    criteria: Criteria,
    real: Pyramid,
    fake: Pyramid,
    kp_driving: Keypoints,
) -> None:
    keypoints = kp_driving.value.detach()
    scales = criteria.discriminator_scales
    fake_outputs = _discriminate(discriminator, fake.at(scales), keypoints)
    terms.add("generator_gan", weights.generator_gan, lambda: losses.generator_gan(fake_outputs))
    if weights.feature_matching > 0:
        with torch.no_grad():
            real_outputs = _discriminate(discriminator, real.at(scales), keypoints)
        terms.add(
            "feature_matching",
            weights.feature_matching,
            lambda: losses.feature_matching(real_outputs, fake_outputs),
        )


def _add_equivariance_terms(
    terms: _Terms,
    weights: LossWeights,
    kp: Keypoints,
    transform: EquivarianceTransform,
    kp_transformed: Keypoints,
) -> None:
    terms.add(
        "equivariance_value",
        weights.equivariance_value,
        lambda: losses.equivariance_value(kp, transform, kp_transformed),
    )
    terms.add(
        "equivariance_jacobian",
        weights.equivariance_jacobian,
        lambda: losses.equivariance_jacobian(kp, transform, kp_transformed),
    )


def _discriminate(
    discriminator: nn.Module, images: Sequence[Tensor], keypoints: Tensor
) -> tuple[DiscriminatorOutput, ...]:
    """Call the discriminator with its parameters held fixed: gradients reach the images only."""
    bare = _unwrap(discriminator)
    fixed = {name: value.detach() for name, value in bare.named_parameters()}
    outputs: tuple[DiscriminatorOutput, ...] = functional_call(bare, fixed, (images, keypoints))
    return outputs


def _tdmm(module: nn.Module) -> Tdmm:
    """The 3DMM itself, for the parts of it that hold nothing to train (head model, texture, renderer)."""
    bare = _unwrap(module)
    assert isinstance(bare, Tdmm)
    return bare


def _unwrap(module: nn.Module) -> nn.Module:
    return module.module if isinstance(module, DistributedDataParallel) else module
