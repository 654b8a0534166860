"""Losses of both training stages: pure functions of tensors, unweighted, each a scalar.

Weights live in ``safa.config.losses`` and are applied in ``safa.training.steps``.
Source: SAFA (Wang et al., 2021), section 3.4; First Order Motion Model (Siarohin et al., 2019), section 3.4;
docs/model.md, section 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from safa.geometry.grids import resize
from safa.geometry.matrices import inverse_2x2
from safa.geometry.tps import EquivarianceTransform
from safa.head.model import HeadCode
from safa.head.render import HeadRender
from safa.models.discriminator import DiscriminatorOutput
from safa.models.keypoints import Keypoints
from safa.precision import at_least_float32, full_precision

EXPRESSION_SHARE = 0.8  # weight of the expression term; the shape term has 1

# Landmarks (iBUG numbers from 0) whose distances show what a face does, and not where it is; and how much
# each pair counts. Lids and corners move by a pixel or two where lips move by ten, so they count more.
EXPRESSION_PAIRS = (
    *((61, 67, 2.0), (62, 66, 2.0), (63, 65, 2.0)),  # inner lips
    *((50, 58, 2.0), (51, 57, 2.0), (52, 56, 2.0)),  # outer lips
    (48, 54, 8.0),  # corners of the mouth
    *((37, 41, 4.0), (38, 40, 4.0), (43, 47, 4.0), (44, 46, 4.0)),  # lids
    *((36, 39, 1.0), (42, 45, 1.0)),  # corners of the eyes
    *((30, 51, 1.0), (30, 57, 1.0)),  # tip of the nose to both lips
)
# Of each part its first landmark, which is a corner, the other corner, and the first landmark behind it.
MOUTH, EYES = (48, 54, 68), ((36, 39, 42), (42, 45, 48))
PART_RADIUS = 0.6  # of the distance between a part's corners: standard deviation of its weight
LEAST_PART_RADIUS = 0.02  # of the image's side: parts that are seen from the side stay visible
KEYPOINT_DISTANCE = 0.3  # in normalised coordinates: keypoints that far apart are left alone

FeatureMaps = Callable[[Tensor], tuple[Tensor, ...]]


# ---- 3D head


def landmark(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute landmark error in pixels of the image.

    Frames with a NaN among the target landmarks (no face was detected) are left out; 0 if none is left.

    Args:
        prediction, target: (B, 68, 2) px.
    """
    known, target = _known(target, prediction.detach())
    error = (prediction - target).abs().flatten(1).mean(dim=1)  # (B, 68, 2) -> (B, 136) -> (B,)
    return error.sum() / known.sum().clamp(min=1)


def expression(prediction: Tensor, target: Tensor) -> Tensor:
    """Weighted absolute error of the differences between ``EXPRESSION_PAIRS`` of landmarks, in pixels.

    The mean landmark error is nearly as small with a closed mouth as with the right one; this is not. It is
    not part of SAFA. After the eye-closure loss of DECA (Feng et al., 2021), section 4.1, equation (6), for
    lips and noses, too. Frames without a face count as in ``landmark``.

    Args:
        prediction, target: (B, 68, 2) px.
    """
    known, target = _known(target, prediction.detach())
    first, second, weight = _expression_pairs(prediction.device)
    error = (prediction[:, first] - prediction[:, second]) - (target[:, first] - target[:, second])
    weighted = error.abs() * weight[:, None]  # (B, 15, 2) * (15, 1)
    per_frame = weighted.flatten(1).mean(dim=1)  # (B, 15, 2) -> (B, 30) -> (B,)
    return per_frame.sum() / known.sum().clamp(min=1)


@cache
def _expression_pairs(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """First and second landmark of each pair, and its weight, (15,) each: copied to a device once."""
    first, second, weight = zip(*EXPRESSION_PAIRS, strict=True)
    with torch.inference_mode(False):  # whoever calls first: training keeps them for its gradients
        return (
            torch.tensor(first, device=device),
            torch.tensor(second, device=device),
            torch.tensor(weight, device=device),
        )


def _known(target: Tensor, instead: Tensor) -> tuple[Tensor, Tensor]:
    """Which frames have all their landmarks (B,), and the landmarks (B, 68, 2), of the others ``instead``."""
    known = target.isfinite().flatten(1).all(dim=1)  # (B, 68, 2) -> (B, 136) -> (B,)
    # A selection by index would have a data-dependent size, and 0 * NaN would still be NaN.
    # (B,) -> (B, 1, 1), to choose among (B, 68, 2)
    return known, torch.where(known[:, None, None], target, instead)


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


def part_weights(landmarks: Tensor, size: int, mouth: float, eyes: float) -> Tensor:
    """How much each pixel counts: 1, and at mouth and eyes up to ``mouth`` and ``eyes`` more.

    A part weighs as a Gaussian around the mean of its landmarks, as wide as the part. Mouth and eyes are few
    pixels of a picture, so that a generator may leave them still at little cost. It is not part of SAFA.

    Args:
        landmarks: (B, 68, 2) px; a frame with a NaN among them weighs 1 everywhere.
        size: side of the image in px.

    Returns:
        (B, 1, size, size).
    """
    known, points = _known(landmarks, torch.zeros_like(landmarks))
    axis = torch.arange(size, dtype=points.dtype, device=points.device)  # pixel centres
    extra = torch.zeros(len(points), size, size, dtype=points.dtype, device=points.device)
    for (first, corner, end), weight in ((MOUTH, mouth), *((eye, eyes) for eye in EYES)):
        centre = points[:, first:end].mean(dim=1)  # (B, n, 2) -> (B, 2)
        width = (points[:, first] - points[:, corner]).norm(dim=1)  # (B, 2) -> (B,)
        radius = (PART_RADIUS * width).clamp(min=LEAST_PART_RADIUS * size)[:, None]  # (B, 1)
        x, y = (torch.exp(-(((axis - centre[:, i, None]) / radius) ** 2) / 2) for i in (0, 1))  # (B, size)
        extra = extra + weight * y[:, :, None] * x[:, None, :]  # (B, size, 1) * (B, 1, size)
    return (1 + torch.where(known[:, None, None], extra, 0.0)).unsqueeze(1)  # (B, size, size) -> (B, 1, ...)


def perceptual(
    prediction: Sequence[Tensor],
    target: Sequence[Tensor],
    features: FeatureMaps,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean absolute difference of each feature map, summed over maps and scales; no gradient to the target.

    Args:
        prediction, target: the image at each scale, (B, 3, h, w) in [0, 1].
        features: image to feature maps, ``Vgg19Features`` or ``pixel_features``.
        weights: (B, 1, H, W), of each pixel, as ``part_weights`` gives; without it all count alike.
    """
    terms = []
    for predicted_image, target_image in zip(prediction, target, strict=True):
        with torch.no_grad():
            target_maps = features(target_image.detach())
        prediction_maps = features(predicted_image)
        terms += [_distance(a, b, weights) for a, b in zip(prediction_maps, target_maps, strict=True)]
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


def keypoint_spread(kp: Keypoints) -> Tensor:
    """Mean over all pairs of keypoints of how far they are below ``KEYPOINT_DISTANCE``, from 0 to 1.

    Keypoints in one spot describe one motion. It is not part of SAFA.
    """
    count = kp.value.shape[1]
    first, second = torch.triu_indices(count, count, 1, device=kp.value.device)  # (2, K (K - 1) / 2)
    # The square root of 0 has no gradient: keypoints that lie on each other are taken as a little apart.
    distance = ((kp.value[:, first] - kp.value[:, second]).square().sum(dim=-1) + 1e-8).sqrt()  # (B, pairs)
    return (1 - distance / KEYPOINT_DISTANCE).clamp(min=0).mean()


def _distance(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean absolute difference of maps (B, C, h, w); times ``weights`` (B, 1, H, W), resized to the maps."""
    difference = at_least_float32(a - b).abs()
    if weights is not None:
        difference = difference * resize(weights, (a.shape[-2], a.shape[-1]))
    return difference.mean()
