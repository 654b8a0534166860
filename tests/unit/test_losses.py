"""Each loss against numbers worked out by hand, and what must and must not receive a gradient."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from safa import losses
from safa.config.losses import LossConfig, LossWeights, PerceptualConfig
from safa.geometry.tps import EquivarianceTransform
from safa.head.model import HeadCode
from safa.models.discriminator import DiscriminatorOutput
from safa.models.keypoints import Keypoints

IDENTITY = EquivarianceTransform(torch.eye(2, 3).expand(1, 2, 3), torch.zeros(1, 1, 25))


def output(score: float, *features: float) -> DiscriminatorOutput:
    return DiscriminatorOutput(
        tuple(torch.full((1, 2, 3, 3), f) for f in features), torch.full((1, 1, 2, 2), score)
    )


def test_landmark_is_the_mean_error_in_pixels() -> None:
    given = torch.zeros(2, 68, 2)
    predicted = torch.stack([torch.full((68, 2), 3.0), torch.full((68, 2), -1.0)])
    assert losses.landmark(predicted, given).item() == pytest.approx(2.0)


def test_frames_without_a_face_are_left_out_of_the_landmark_loss() -> None:
    predicted = torch.full((3, 68, 2), 3.0, requires_grad=True)
    given = torch.zeros(3, 68, 2)
    given[1] = math.nan
    given[2, 7, 0] = math.nan  # one missing point spoils the frame
    loss = losses.landmark(predicted, given)
    loss.backward()
    assert loss.item() == pytest.approx(3.0)
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()
    assert predicted.grad[1:].abs().max() == 0
    assert predicted.grad[0].abs().min() > 0


def test_landmark_loss_without_any_face_is_zero() -> None:
    assert losses.landmark(torch.ones(1, 68, 2), torch.full((1, 68, 2), math.nan)).item() == 0


def test_expression_sees_an_open_mouth_and_no_shift() -> None:
    target = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0)) * 60
    assert losses.expression(target + 5.0, target).item() == pytest.approx(0, abs=1e-5)
    opened = target.clone()
    opened[0, 66, 1] += 3.0  # the middle of the lower inner lip: one pair of 15, one frame of two
    assert losses.expression(opened, target).item() == pytest.approx(
        2.0 * 3.0 / (15 * 2) / 2
    )  # its weight is 2
    target[0, 20, 0] = math.nan
    assert losses.expression(opened, target).item() == 0
    for pair in losses.EXPRESSION_PAIRS:
        moved = target[1:].clone()
        moved[0, pair[1], 1] += 1.0
        share = pair[2] / (15 * 2)  # of a landmark that belongs to several pairs, at least
        assert losses.expression(moved, target[1:]).item() > 0.99 * share


def test_parts_weigh_most_at_their_middle() -> None:
    """Against a loop over pixels."""
    points = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(1)) * 30
    weights = losses.part_weights(points, 32, mouth=3.0, eyes=2.0)
    assert weights.shape == (2, 1, 32, 32)
    parts = [(range(48, 68), 48, 54, 3.0), (range(36, 42), 36, 39, 2.0), (range(42, 48), 42, 45, 2.0)]
    for x, y in ((0, 0), (7, 21), (16, 16), (31, 3)):
        expected = 1.0
        for landmarks, left, right, weight in parts:
            centre = torch.stack([points[1, i] for i in landmarks]).mean(0)
            radius = max(0.6 * (points[1, left] - points[1, right]).norm().item(), 0.02 * 32)
            squared = (x - centre[0].item()) ** 2 + (y - centre[1].item()) ** 2
            expected += weight * math.exp(-squared / (2 * radius**2))
        assert weights[1, 0, y, x].item() == pytest.approx(expected, rel=1e-4)
    points[0, 3, 1] = math.nan
    assert losses.part_weights(points, 32, mouth=3.0, eyes=2.0)[0].unique().tolist() == [1.0]


def test_weights_scale_the_perceptual_terms_where_they_lie() -> None:
    target, weights = torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    prediction = torch.zeros(1, 3, 4, 4)
    prediction[..., 0, 0] = 0.5
    weights[..., 0, 0] = 9.0

    def loss(weights: Tensor | None) -> float:
        return losses.perceptual([prediction], [target], lambda image: (image,), weights).item()

    assert loss(weights) == pytest.approx(9 * loss(None))


def test_keypoints_that_lie_together_are_driven_apart() -> None:
    value = torch.zeros(1, 3, 2, requires_grad=True)
    loss = losses.keypoint_spread(Keypoints(value, torch.eye(2).expand(1, 3, 2, 2)))
    assert loss.item() == pytest.approx(1, abs=1e-3)
    loss.backward()
    assert value.grad is not None
    assert value.grad.isfinite().all()
    apart = Keypoints(torch.tensor([[[0.0, 0.0], [0.15, 0.0]]]), torch.eye(2).expand(1, 2, 2, 2))
    assert losses.keypoint_spread(apart).item() == pytest.approx(0.5, abs=1e-3)
    apart = Keypoints(torch.tensor([[[0.0, 0.0], [0.3, 0.0]]]), torch.eye(2).expand(1, 2, 2, 2))
    assert losses.keypoint_spread(apart).item() == pytest.approx(0, abs=1e-3)


def test_tdmm_param() -> None:
    code = HeadCode(
        shape=torch.full((2, 100), 2.0),
        expression=torch.full((2, 50), 3.0),
        **{part: torch.full((2, 1), 9.0) for part in ("rotation", "jaw", "scale", "translation")},
    )
    assert losses.tdmm_param(code).item() == pytest.approx(4 + 0.8 * 9)


def test_photometric_compares_inside_the_masks_only() -> None:
    left = torch.zeros(1, 1, 4, 4)
    left[..., :2] = 1
    source, driving = torch.full((1, 3, 4, 4), 0.8), torch.full((1, 3, 4, 4), 0.5)
    render = SimpleNamespace(
        source=0.6 * left, reenact=driving * (1 - left), source_mask=left, driving_mask=1 - left
    )
    loss = losses.photometric(render, source, driving)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(0.2 / 2)


def test_pixel_features_are_pixels_and_differences() -> None:
    ramp = torch.arange(4.0).expand(1, 3, 5, 4)
    pixels, along_x, along_y = losses.pixel_features(ramp)
    assert pixels is ramp
    assert along_x.shape == (1, 3, 5, 3)
    assert (along_x == 1).all()
    assert (along_y == 0).all()


def test_perceptual_sums_maps_and_scales_and_spares_the_target() -> None:
    prediction = [torch.full((1, 3, 4, 4), 0.5, requires_grad=True), torch.zeros(1, 3, 2, 2)]
    target = [torch.zeros(1, 3, 4, 4, requires_grad=True), torch.full((1, 3, 2, 2), 0.25)]

    def features(image: Tensor) -> tuple[Tensor, ...]:
        return image, 2 * image

    loss = losses.perceptual(prediction, target, features)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 + 1.0 + 0.25 + 0.5)
    assert target[0].grad is None
    assert prediction[0].grad is not None


def test_adversarial_losses_sum_over_scales() -> None:
    fake = [output(0.5, 1.0, 2.0), output(0.0, 3.0, 4.0)]
    real = [output(1.0, 1.5, 2.0), output(0.5, 3.0, 2.0)]
    assert losses.generator_gan(fake).item() == pytest.approx(0.25 + 1.0)
    assert losses.feature_matching(real, fake).item() == pytest.approx(0.5 + 2.0)
    assert losses.discriminator_gan(real, fake).item() == pytest.approx((0 + 0.25) + (0.25 + 0))


def test_equivariance_is_zero_for_keypoints_that_move_with_the_frame() -> None:
    theta = torch.tensor([[[0.9, 0.1, 0.2], [-0.1, 1.1, -0.3]]], dtype=torch.float64)
    weights = torch.randn(1, 1, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.01
    transform = EquivarianceTransform(theta, weights)
    found = Keypoints(
        torch.tensor([[[0.1, 0.2], [-0.5, 0.4]]], dtype=torch.float64),
        torch.eye(2, dtype=torch.float64).expand(1, 2, 2, 2),
    )
    # What a perfect detector says of the frame itself: T moves the points, the chain rule the Jacobians.
    exact = Keypoints(transform.warp_points(found.value), transform.jacobian(found.value) @ found.jacobian)
    assert losses.equivariance_value(exact, transform, found).item() == pytest.approx(0, abs=1e-12)
    assert losses.equivariance_jacobian(exact, transform, found).item() == pytest.approx(0, abs=1e-12)


def test_equivariance_measures_the_distance() -> None:
    a = Keypoints(torch.tensor([[[0.1, 0.2]]]), torch.eye(2).expand(1, 1, 2, 2))
    b = Keypoints(torch.tensor([[[0.2, 0.0]]]), 2 * torch.eye(2).expand(1, 1, 2, 2))
    assert losses.equivariance_value(a, IDENTITY, b).item() == pytest.approx(0.15)
    assert losses.equivariance_jacobian(a, IDENTITY, b).item() == pytest.approx(
        0.5
    )  # |I - 2 I| over 4 entries


def test_equivariance_gradients() -> None:
    rng = torch.Generator().manual_seed(1)
    transform = EquivarianceTransform.random(1, rng).to(torch.zeros((), dtype=torch.float64))
    value = torch.rand(1, 2, 2, generator=rng, dtype=torch.float64) - 0.5
    jacobian = torch.eye(2, dtype=torch.float64) + 0.1 * torch.rand(
        1, 2, 2, 2, generator=rng, dtype=torch.float64
    )
    other = (value + 0.1, jacobian + 0.2)
    inputs = [x.requires_grad_() for x in (value, jacobian, *other)]

    def both(*parts: Tensor) -> Tensor:
        kp, moved = Keypoints(*parts[:2]), Keypoints(*parts[2:])
        return losses.equivariance_value(kp, transform, moved) + losses.equivariance_jacobian(
            kp, transform, moved
        )

    assert torch.autograd.gradcheck(both, inputs)


def test_published_weights_are_the_defaults() -> None:
    weights = LossWeights()
    assert (weights.perceptual, weights.feature_matching, weights.equivariance_value) == (10, 10, 10)
    assert (weights.landmark, weights.photometric, weights.tdmm_param) == (1, 1, 0.01)
    assert LossConfig().perceptual.scales == (1.0, 0.5, 0.25, 0.125)


def test_vgg_is_never_random_in_silence() -> None:
    with pytest.raises(ValueError, match="vgg19 needs 'weights'"):
        PerceptualConfig(backend="vgg19")
    with pytest.raises(ValueError, match="reads no 'weights'"):
        PerceptualConfig.model_validate_json('{"backend": "pixel_pyramid", "weights": "vgg.pth"}')
