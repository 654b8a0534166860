"""Losses of both training stages: pure functions of tensors, unweighted, each a scalar.

Weights live in ``safa.config.losses`` and are applied in ``safa.training.steps``.
Source: SAFA (Wang et al., 2021), section 3.4; First Order Motion Model (Siarohin et al., 2019), section 3.4;
docs/model.md, section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from safa.geometry.matrices import inverse_2x2
from safa.geometry.tps import EquivarianceTransform
from safa.head.model import HeadCode
from safa.head.render import HeadRender
from safa.models.discriminator import DiscriminatorOutput
from safa.models.keypoints import Keypoints
from safa.precision import at_least_float32, full_precision

EXPRESSION_SHARE = 0.8  # weight of the expression term; the shape term has 1

FeatureMaps = Callable[[Tensor], tuple[Tensor, ...]]


# ---- 3D head


def landmark(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute landmark error in pixels of the image.

    Frames with a NaN among the target landmarks (no face was detected) are left out; 0 if none is left.

    Args:
        prediction, target: (B, 68, 2) px.
    """
    known = target.isfinite().flatten(1).all(dim=1)  # (B, 68, 2) -> (B, 136) -> (B,)
    # A selection by index would have a data-dependent size, and 0 * NaN would still be NaN.
    # (B,) -> (B, 1, 1), to choose among (B, 68, 2)
    target = torch.where(known[:, None, None], target, prediction.detach())
    error = (prediction - target).abs().flatten(1).mean(dim=1)  # (B, 68, 2) -> (B, 136) -> (B,)
    return error.sum() / known.sum().clamp(min=1)


def tdmm_param(code: HeadCode) -> Tensor:
    """Keep shape and expression near the average face: mean(shape^2) + 0.8 mean(expression^2)."""
    return code.shape.square().mean() + EXPRESSION_SHARE * code.expression.square().mean()


def photometric(render: HeadRender, source: Tensor, driving: Tensor) -> Tensor:
    """Mean absolute difference of each render from its image (B, 3, H, W) in the face mask, both summed."""
    source_error = (render.source - source * render.source_mask).abs().mean()
    driving_error = (render.reenact - driving * render.driving_mask).abs().mean()
    return source_error + driving_error


# ---- prediction


def pixel_features(image: Tensor) -> tuple[Tensor, ...]:
    """Pixels, and their differences along x and y: stands in for VGG19 where its weights are not at hand."""
    # (B, 3, H, W), (B, 3, H, W-1), (B, 3, H-1, W)
    return image, image[..., :, 1:] - image[..., :, :-1], image[..., 1:, :] - image[..., :-1, :]


def perceptual(prediction: Sequence[Tensor], target: Sequence[Tensor], features: FeatureMaps) -> Tensor:
    """Mean absolute difference of each feature map, summed over maps and scales; no gradient to the target.

    Args:
        prediction, target: the image at each scale, (B, 3, h, w) in [0, 1].
        features: image to feature maps, ``Vgg19Features`` or ``pixel_features``.
    """
    terms = []
    for predicted_image, target_image in zip(prediction, target, strict=True):
        with torch.no_grad():
            target_maps = features(target_image.detach())
        prediction_maps = features(predicted_image)
        terms += [_distance(a, b) for a, b in zip(prediction_maps, target_maps, strict=True)]
    return torch.stack(terms).sum()  # scalars -> (terms,) -> ()


def generator_gan(fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Least squares, mean (1 - D(fake))^2 summed over scales: 0 when D takes the prediction for real."""
    # scalars -> (scales,) -> ()
    return torch.stack([(1 - at_least_float32(scale.score)).square().mean() for scale in fake]).sum()


def feature_matching(real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Mean absolute difference of the discriminator's features, summed over blocks and scales."""
    pairs = (
        (prediction, target)
        for real_scale, fake_scale in zip(real, fake, strict=True)
        for prediction, target in zip(fake_scale.features, real_scale.features, strict=True)
    )
    # scalars -> (blocks * scales,) -> ()
    return torch.stack([_distance(prediction, target) for prediction, target in pairs]).sum()


def discriminator_gan(real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Least squares, mean [(1 - D(real))^2 + D(fake)^2] summed over scales: real to 1, prediction to 0."""
    terms = [
        (
            (1 - at_least_float32(real_scale.score)).square() + at_least_float32(fake_scale.score).square()
        ).mean()
        for real_scale, fake_scale in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).sum()  # scalars -> (terms,) -> ()


# ---- keypoints


def equivariance_value(kp: Keypoints, transform: EquivarianceTransform, kp_transformed: Keypoints) -> Tensor:
    """Mean |kp - T(kp_T)|: keypoints of the transformed frame, moved back by T, must be the frame's own."""
    return (kp.value - transform.warp_points(kp_transformed.value)).abs().mean()


def equivariance_jacobian(
    kp: Keypoints, transform: EquivarianceTransform, kp_transformed: Keypoints
) -> Tensor:
    """Mean |I - J^-1 (dT/dx J_T)|: the Jacobians must agree in the same way, by the chain rule."""
    with full_precision(kp.value):
        chained = transform.jacobian(kp_transformed.value) @ kp_transformed.jacobian
        product: Tensor = inverse_2x2(kp.jacobian) @ chained
    identity = torch.eye(2, dtype=product.dtype, device=product.device)
    return (identity - product).abs().mean()


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference."""
    return at_least_float32(a - b).abs().mean()
