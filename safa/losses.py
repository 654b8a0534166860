"""Losses of both training stages: pure functions of tensors, unweighted, each a scalar.

Weights live in ``safa.config.losses`` and are applied in ``safa.training.steps``.
Source: SAFA (Wang et al., 2021), section 3.4; First Order Motion Model (Siarohin et al., 2019), section 3.4;
MODEL.md, section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from safa.geometry.tps import EquivarianceTransform
from safa.head.model import HeadCode
from safa.head.render import HeadRender
from safa.models.discriminator import DiscriminatorOutput
from safa.models.keypoints import Keypoints
from safa.precision import at_least_float32, full_precision

EXPRESSION_SHARE = 0.8  # of the expression term beside the shape term

FeatureMaps = Callable[[Tensor], tuple[Tensor, ...]]


# ---- 3D head


def landmark(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute landmark error in pixels of the image.

    Frames with a NaN among the given landmarks (no face found) are left out; 0 if none is left.
    """
    known_B = target.isfinite().flatten(1).all(dim=1)
    # A selection by index would have a data-dependent size, and 0 * NaN would still be NaN.
    target = torch.where(known_B[:, None, None], target, prediction.detach())
    error_B = (prediction - target).abs().flatten(1).mean(dim=1)
    return error_B.sum() / known_B.sum().clamp(min=1)


def tdmm_param(code: HeadCode) -> Tensor:
    """Keeps shape and expression near the average face: mean(shape^2) + 0.8 mean(expression^2)."""
    return code.shape.square().mean() + EXPRESSION_SHARE * code.expression.square().mean()


def photometric(render: HeadRender, source: Tensor, driving: Tensor) -> Tensor:
    """Mean absolute difference of each 3D render from its image (B, 3, H, W) inside the face mask, summed."""
    source_error = (render.source - source * render.source_mask).abs().mean()
    driving_error = (render.reenact - driving * render.driving_mask).abs().mean()
    return source_error + driving_error


# ---- prediction


def pixel_features(image: Tensor) -> tuple[Tensor, ...]:
    """Stand-in for VGG19 where its weights are not at hand: pixels, and their differences along x and y."""
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
            wanted = features(target_image.detach())
        found = features(predicted_image)
        terms += [_distance(got, want) for got, want in zip(found, wanted, strict=True)]
    return torch.stack(terms).sum()


def generator_gan(fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Least squares: how far the discriminator is from taking the prediction for real, summed over scales."""
    return torch.stack([(1 - at_least_float32(scale.score)).square().mean() for scale in fake]).sum()


def feature_matching(real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Mean absolute difference of the discriminator's features, summed over blocks and scales."""
    pairs = (
        (got, want)
        for real_scale, fake_scale in zip(real, fake, strict=True)
        for got, want in zip(fake_scale.features, real_scale.features, strict=True)
    )
    return torch.stack([_distance(got, want) for got, want in pairs]).sum()


def discriminator_gan(real: Sequence[DiscriminatorOutput], fake: Sequence[DiscriminatorOutput]) -> Tensor:
    """Least squares: real to 1, prediction to 0, summed over scales."""
    terms = [
        (
            (1 - at_least_float32(real_scale.score)).square() + at_least_float32(fake_scale.score).square()
        ).mean()
        for real_scale, fake_scale in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).sum()


# ---- keypoints


def equivariance_value(kp: Keypoints, transform: EquivarianceTransform, kp_transformed: Keypoints) -> Tensor:
    """Points found in the transformed frame, moved back by T, must be those of the frame itself."""
    return (kp.value - transform.warp_points(kp_transformed.value)).abs().mean()


def equivariance_jacobian(
    kp: Keypoints, transform: EquivarianceTransform, kp_transformed: Keypoints
) -> Tensor:
    """The same for the Jacobians, by the chain rule: mean |I - J^-1 (dT/dx J_T)|."""
    with full_precision(kp.value):
        chained = transform.jacobian(kp_transformed.value) @ kp_transformed.jacobian
        product: Tensor = torch.linalg.inv(kp.jacobian) @ chained
    identity = torch.eye(2, dtype=product.dtype, device=product.device)
    return (identity - product).abs().mean()


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference."""
    return at_least_float32(a - b).abs().mean()
