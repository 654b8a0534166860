from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from safa.config.inference import TransferConfig
from safa.head.model import HeadCode
from safa.inference.motion_transfer import (
    absolute,
    find_best_frame,
    hull_area,
    make_transfer,
    movement_gain,
    relative,
)
from safa.models.keypoints import Keypoints
from safa.models.safa import FaceState
from safa.tensor_tree import map_tensors


def state(seed: int, batch: int = 1, points: int = 5) -> FaceState:
    rng = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return 0.3 * torch.randn(batch, *shape, generator=rng, dtype=torch.float64)

    code = HeadCode(noise(100), noise(50), noise(3), noise(3), 10 + noise(1), noise(2))
    jacobian = torch.eye(2, dtype=torch.float64) + 0.3 * noise(points, 2, 2)
    return FaceState(Keypoints(noise(points, 2), jacobian), code, noise(1280))


def assert_same(ours: FaceState, expected: FaceState) -> None:
    for part in ("shape", "expression", "rotation", "jaw", "scale", "translation"):
        torch.testing.assert_close(getattr(ours.code, part), getattr(expected.code, part))
    torch.testing.assert_close(ours.keypoints.value, expected.keypoints.value)
    torch.testing.assert_close(ours.keypoints.jacobian, expected.keypoints.jacobian)
    torch.testing.assert_close(ours.feature, expected.feature)


def test_absolute_motion_keeps_only_the_source_shape() -> None:
    source, driving = state(0), state(1, batch=3)
    moved = absolute(source, driving)
    shape = source.code.shape.repeat(3, 1)
    assert_same(moved, FaceState(driving.keypoints, driving.code.replace(shape=shape), driving.feature))


def test_a_driving_face_at_rest_leaves_the_source_as_it_is() -> None:
    source, reference = state(0), state(1)
    moved = relative(source, reference, reference, keypoint_gain=1.7)
    assert_same(moved, FaceState(source.keypoints, source.code, reference.feature))


def test_a_source_that_is_the_reference_follows_the_driving_face_exactly() -> None:
    driving, reference = state(1, batch=2), state(2)
    assert_same(relative(reference, driving, reference), driving)


def test_relative_motion_frame_by_frame() -> None:
    """Against a naive twin with one frame and one keypoint at a time."""
    source, driving, reference, gain = state(0), state(1, batch=3), state(2), 1.4
    moved = relative(source, driving, reference, keypoint_gain=gain)
    for b in range(3):
        for k in range(5):
            way = driving.keypoints.value[b, k] - reference.keypoints.value[0, k]
            torch.testing.assert_close(moved.keypoints.value[b, k], source.keypoints.value[0, k] + gain * way)
            change = driving.keypoints.jacobian[b, k] @ reference.keypoints.jacobian[0, k].inverse()
            expected = change @ source.keypoints.jacobian[0, k]
            torch.testing.assert_close(moved.keypoints.jacobian[b, k], expected)
        for part in ("shape", "expression", "rotation", "jaw", "translation"):
            parts = [getattr(face.code, part) for face in (source, driving, reference)]
            torch.testing.assert_close(getattr(moved.code, part)[b], parts[0][0] + parts[1][b] - parts[2][0])
        scales = [face.code.scale for face in (source, driving, reference)]
        torch.testing.assert_close(moved.code.scale[b], scales[0][0] * scales[1][b] / scales[2][0])
    torch.testing.assert_close(moved.feature, driving.feature)


def test_a_face_twice_as_large_moves_twice_as_far() -> None:
    reference = state(1)
    source = FaceState(
        Keypoints(reference.keypoints.value * 2 + 0.1, reference.keypoints.jacobian),
        reference.code,
        reference.feature,
    )
    assert movement_gain(source.keypoints, reference.keypoints) == pytest.approx(2.0)
    driving = state(2, batch=2)
    way = driving.keypoints.value - reference.keypoints.value
    adapted = make_transfer(source, reference, TransferConfig(adapt_scale=True))(driving)
    torch.testing.assert_close(adapted.keypoints.value, source.keypoints.value + 2 * way)
    plain = make_transfer(source, reference, TransferConfig())(driving)
    torch.testing.assert_close(plain.keypoints.value, source.keypoints.value + way)


def test_the_mode_is_obeyed() -> None:
    source, driving, reference = state(0), state(1), state(2)
    config = TransferConfig(mode="absolute")
    assert_same(make_transfer(source, reference, config)(driving), absolute(source, driving))


@pytest.mark.parametrize("setting", ["adapt_scale", "best_frame"])
def test_settings_of_relative_motion_are_refused_for_absolute(setting: str) -> None:
    with pytest.raises(ValueError, match="need mode: relative"):
        TransferConfig.model_validate({"mode": "absolute", setting: True})


def test_transfer_changes_none_of_its_inputs() -> None:
    inputs = (state(0), state(1, batch=2), state(2))
    before = tuple(map_tensors(torch.clone, face) for face in inputs)
    relative(*inputs, keypoint_gain=0.5)
    absolute(*inputs[:2])
    for now, then in zip(inputs, before, strict=True):
        assert_same(now, then)


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(-3, 3))
@settings(max_examples=25, deadline=None)
def test_hull_area_of_a_tilted_rectangle(width: float, height: float, angle: float) -> None:
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height], [width / 2, height / 2]])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    assert hull_area(corners @ turn + 3) == pytest.approx(width * height)


def test_points_on_a_line_have_no_area() -> None:
    with pytest.raises(ValueError, match="on one line"):
        hull_area(np.outer(np.arange(5.0), [1.0, 2.0]))


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 68, 2)).astype(np.float32) * 100


def test_the_best_frame_is_the_same_face_moved_and_enlarged() -> None:
    driving = faces(6)
    driving[1] = math.nan
    source = driving[3] * 2.5 + 40
    assert find_best_frame(source, driving) == 3


def test_the_best_frame_against_a_naive_twin() -> None:
    source, driving = faces(7)[6], faces(7)[:6]

    def norm(points: np.ndarray) -> np.ndarray:
        centred = points - points.mean(0)
        return centred / math.sqrt(hull_area(centred))

    distances = [sum(float(d) ** 2 for d in (norm(f) - norm(source)).ravel()) for f in driving]
    assert find_best_frame(source, driving) == distances.index(min(distances))


def test_depth_counts_in_the_distance_but_not_in_the_area() -> None:
    rng = np.random.default_rng(1)
    source = rng.random((68, 3))
    flat, deep = source.copy(), source.copy()
    deep[:, 2] += rng.random(68)
    assert find_best_frame(source, np.stack([deep, flat])) == 1


def test_faces_are_needed_to_choose_a_frame() -> None:
    nothing = np.full((2, 68, 2), np.nan)
    with pytest.raises(ValueError, match="the source has no landmarks"):
        find_best_frame(nothing[0], faces(2))
    with pytest.raises(ValueError, match="no driving frame has landmarks"):
        find_best_frame(faces(1)[0], nothing)
