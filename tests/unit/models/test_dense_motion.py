"""Dense motion: the first-order motions against loops, and what the blended flow must satisfy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from safa.config.model import ModelConfig
from safa.geometry.grids import identity_grid, warp
from safa.head.render import HeadRender
from safa.models.dense_motion import DenseMotion, Motion, keypoint_motions
from safa.models.keypoints import Keypoints
from safa.tensor_tree import map_tensors


def random_keypoints(batch: int, count: int, rng: torch.Generator) -> Keypoints:
    value = torch.rand(batch, count, 2, generator=rng, dtype=torch.float64) * 1.6 - 0.8
    jacobian = torch.eye(2) + 0.2 * torch.randn(batch, count, 2, 2, generator=rng, dtype=torch.float64)
    return Keypoints(value, jacobian)


def render_of(batch: int, size: int, rng: torch.Generator) -> HeadRender:
    """A made-up render in the right shapes."""

    def image(channels: int) -> Tensor:
        return torch.rand(batch, channels, size, size, generator=rng)

    mask = (image(1) > 0.5).float()
    return HeadRender(
        image(3), image(3), mask, mask, image(3), image(3), image(2), image(2), 0.2 * image(2) - 0.1
    )


def naive_motion(source: Keypoints, driving: Keypoints, k: int, z: np.ndarray) -> np.ndarray:
    """J_s J_d^-1 (z - p_d) + p_s of sample 0."""
    to_reference = np.linalg.inv(driving.jacobian[0, k].numpy())
    moved: np.ndarray = (
        source.jacobian[0, k].numpy() @ to_reference @ (z - driving.value[0, k].numpy())
        + source.value[0, k].numpy()
    )
    return moved


def test_sparse_motions_agree_with_loops(rng: torch.Generator) -> None:
    source, driving = random_keypoints(1, 3, rng), random_keypoints(1, 3, rng)
    height, width = 4, 5
    motions = keypoint_motions(source, driving, identity_grid(height, width, dtype=torch.float64))
    for k in range(3):
        for i in range(height):
            for j in range(width):
                z = np.array([2 * j / (width - 1) - 1, 2 * i / (height - 1) - 1])
                expected = naive_motion(source, driving, k, z)
                np.testing.assert_allclose(motions[0, k, i, j].numpy(), expected, atol=1e-12)


def test_a_still_face_moves_nowhere(rng: torch.Generator) -> None:
    kp = random_keypoints(2, 3, rng)
    grid = identity_grid(6, 6, dtype=torch.float64)
    torch.testing.assert_close(keypoint_motions(kp, kp, grid), grid.expand(2, 3, 6, 6, 2))


def test_sparse_motions_gradients(rng: torch.Generator) -> None:
    source, driving = random_keypoints(1, 2, rng), random_keypoints(1, 2, rng)
    grid = identity_grid(3, 3, dtype=torch.float64)
    inputs = [t.requires_grad_() for kp in (source, driving) for t in (kp.value, kp.jacobian)]

    def motions(*parts: Tensor) -> Tensor:
        return keypoint_motions(Keypoints(*parts[:2]), Keypoints(*parts[2:]), grid)

    assert torch.autograd.gradcheck(motions, inputs)


@pytest.fixture
def network(config: ModelConfig) -> DenseMotion:
    torch.manual_seed(0)
    return DenseMotion(config).eval()


def run(network: DenseMotion, batch: int, rng: torch.Generator) -> tuple[tuple[object, ...], Motion]:
    def keypoints() -> Keypoints:
        return map_tensors(lambda tensor: tensor.float(), random_keypoints(batch, 3, rng))

    inputs = (
        torch.rand(batch, 3, 64, 64, generator=rng),
        keypoints(),
        keypoints(),
        render_of(batch, 64, rng),
    )
    with torch.no_grad():
        return inputs, network(*inputs)


def test_the_flow_is_the_mask_weighted_mean_of_the_motions(
    network: DenseMotion, rng: torch.Generator
) -> None:
    (_, kp_source, kp_driving, _), motion = run(network, 2, rng)
    grid = identity_grid(16, 16)
    points = keypoint_motions(kp_source, kp_driving, grid)  # type: ignore[arg-type]
    total = motion.masks[:, 0, ..., None] * grid
    for k in range(3):
        total = total + motion.masks[:, 1 + k, ..., None] * points[:, k]
    total = total + motion.masks[:, -1, ..., None] * motion.motion_field.permute(0, 2, 3, 1)
    torch.testing.assert_close(motion.deformation, total)
    torch.testing.assert_close(motion.masks.sum(dim=1), torch.ones(2, 16, 16))
    for occlusion in (motion.occlusion1, motion.occlusion2):
        assert occlusion.shape == (2, 1, 16, 16)
        assert 0 <= occlusion.min() <= occlusion.max() <= 1


def test_each_warped_source_is_the_source_under_that_motion(
    network: DenseMotion, rng: torch.Generator
) -> None:
    (source, kp_source, kp_driving, _), motion = run(network, 2, rng)
    small = network.down(source)
    points = keypoint_motions(kp_source, kp_driving, identity_grid(16, 16))  # type: ignore[arg-type]
    torch.testing.assert_close(
        motion.warped_sources[:, 0], warp(small, identity_grid(16, 16).expand(2, -1, -1, -1))
    )
    for k in range(3):
        torch.testing.assert_close(motion.warped_sources[:, 1 + k], warp(small, points[:, k]))


def test_the_motion_field_is_absolute(network: DenseMotion, rng: torch.Generator) -> None:
    (_, _, _, render), motion = run(network, 1, rng)
    assert isinstance(render, HeadRender)
    expected = network.down_motion(render.motion_field) + identity_grid(16, 16).permute(2, 0, 1)
    torch.testing.assert_close(motion.motion_field, expected)


def test_batch_of_four_is_four_batches_of_one(network: DenseMotion, rng: torch.Generator) -> None:
    inputs, together = run(network, 4, rng)
    for i in range(4):
        one = map_tensors(lambda tensor, i=i: tensor[i : i + 1], inputs)
        with torch.no_grad():
            alone = network(*one)
        for a, b in zip(vars(together).values(), vars(alone).values(), strict=True):
            torch.testing.assert_close(a[i : i + 1], b)


def test_bfloat16_autocast_keeps_positions_exact(network: DenseMotion, rng: torch.Generator) -> None:
    inputs, exact = run(network, 1, rng)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = network(*inputs)
    torch.testing.assert_close(mixed.motion_field, exact.motion_field)
    torch.testing.assert_close(mixed.warped_sources, exact.warped_sources)
    assert mixed.deformation.dtype == torch.float32
    torch.testing.assert_close(mixed.deformation, exact.deformation, atol=2e-2, rtol=0)
    assert not torch.equal(mixed.masks, exact.masks)  # the hourglass did run in half precision
