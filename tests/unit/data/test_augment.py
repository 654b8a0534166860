"""Mirroring keeps sides apart; colour jitter is alike on all frames of a sample."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safa.config.training import JitterConfig, SimilarityConfig
from safa.data.augment import MIRROR_ORDER, ColourShift, Similarity, jitter_colours, mirror

NEUTRAL = ColourShift(1, 1, 1, 0)


def _face(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    return frame, rng.uniform(0, 15, (68, 2)).astype(np.float32)


def test_mirror_is_its_own_inverse() -> None:
    frame, points = _face()
    again, points_again = mirror(*mirror(frame, points))
    np.testing.assert_array_equal(again, frame)
    np.testing.assert_allclose(points_again, points, atol=1e-5)


def test_mirrored_point_stays_on_its_pixel() -> None:
    frame, points = _face()
    points = points.round()
    mirrored, moved = mirror(frame, points)
    for i, j in enumerate(MIRROR_ORDER):
        (x, y), (u, v) = points[j].astype(int), moved[i].astype(int)
        np.testing.assert_array_equal(mirrored[v, u], frame[y, x])


def test_mirror_order_on_a_symmetric_face() -> None:
    """A face that is its own mirror image must keep every point where it was."""
    width = 101
    right_half = {  # iBUG points on one side or the midline: x offset from the middle, y
        **{i: (-40 + 5 * i, 40 + 5 * i) for i in range(8)}, 8: (0, 85),
        **{17 + i: (-35 + 6 * i, 20 - i) for i in range(5)},
        **{27 + i: (0, 30 + 4 * i) for i in range(4)}, 31: (-8, 50), 32: (-4, 52), 33: (0, 53),
        36: (-30, 31), 37: (-26, 28), 38: (-20, 28), 39: (-15, 31), 40: (-20, 33), 41: (-26, 33),
        48: (-20, 65), 49: (-12, 62), 50: (-5, 60), 51: (0, 61), 57: (0, 75), 58: (-6, 74), 59: (-13, 71),
        60: (-16, 65), 61: (-6, 64), 62: (0, 64), 66: (0, 69), 67: (-6, 68),
    }  # fmt: skip
    points = np.full((68, 2), np.nan, np.float32)
    pairs = {31: 35, 32: 34, 36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46, 48: 54, 49: 53, 50: 52, 59: 55}
    pairs |= {58: 56, 60: 64, 61: 63, 67: 65}
    pairs |= {i: 16 - i for i in range(8)} | {17 + i: 26 - i for i in range(5)}
    for i, (x, y) in right_half.items():
        points[i] = (50 + x, y)
        points[pairs.get(i, i)] = (50 - x, y)
    assert np.isfinite(points).all()
    _, mirrored = mirror(np.zeros((101, width, 3), np.uint8), points)
    np.testing.assert_allclose(mirrored, points)


def test_mirror_keeps_nan_and_its_input() -> None:
    frame, points = _face()
    points[:] = np.nan
    before = frame.copy()
    _, mirrored = mirror(frame, points)
    assert np.isnan(mirrored).all()
    np.testing.assert_array_equal(frame, before)


def test_neutral_shift_changes_nothing() -> None:
    images = torch.rand(2, 2, 3, 5, 7)
    torch.testing.assert_close(jitter_colours(images, [NEUTRAL, NEUTRAL]), images)


@given(st.builds(ColourShift, *[st.floats(0.5, 1.5)] * 3, st.floats(-0.5, 0.5)), st.floats(0, 1))
def test_grey_stays_grey(shift: ColourShift, level: float) -> None:
    grey = torch.full((1, 1, 3, 2, 2), level)
    out = jitter_colours(grey, [shift])
    assert float(out.max() - out.min()) < 1e-5


def _one_pixel_at_a_time(images: torch.Tensor, shift: ColourShift) -> torch.Tensor:
    """The four adjustments one after the other, on plain numbers."""
    frames = images.double().permute(0, 2, 3, 1).numpy().copy()  # N, H, W, 3
    luma = np.array([0.299, 0.587, 0.114])
    mean = float((frames @ luma).mean()) * shift.brightness
    for index in np.ndindex(frames.shape[:3]):
        rgb = frames[index] * shift.brightness
        rgb = mean + shift.contrast * (rgb - mean)
        grey = float(rgb @ luma)
        rgb = grey + shift.saturation * (rgb - grey)
        y, i, q = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2], *_iq(rgb)
        angle = 2 * np.pi * shift.hue
        turned = (np.cos(angle) * i - np.sin(angle) * q, np.sin(angle) * i + np.cos(angle) * q)
        frames[index] = np.linalg.solve(_yiq_matrix(), np.array([y, *turned]))
    return torch.from_numpy(frames.clip(0, 1)).permute(0, 3, 1, 2).float()


def _yiq_matrix() -> np.ndarray:
    return np.array(
        [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]]
    )


def _iq(rgb: np.ndarray) -> tuple[float, float]:
    _, i, q = _yiq_matrix() @ rgb
    return float(i), float(q)


def test_one_matrix_equals_four_adjustments_in_turn() -> None:
    images = torch.rand(3, 2, 3, 4, 5)
    shifts = [ColourShift(1.1, 0.9, 1.05, 0.08), ColourShift(0.92, 1.1, 0.9, -0.1), NEUTRAL]
    out = jitter_colours(images, shifts)
    for sample, shift, got in zip(images, shifts, out, strict=True):
        torch.testing.assert_close(got, _one_pixel_at_a_time(sample, shift), atol=2e-6, rtol=0)


def test_both_frames_of_a_pair_get_the_same_map() -> None:
    """Pixels of one colour stay of one colour, whichever frame they are in."""
    pair = torch.rand(1, 2, 3, 6, 6)
    pair[0, 1, :, 2:4] = pair[0, 0, :, 2:4]
    out = jitter_colours(pair, [ColourShift(1.05, 1.1, 0.9, 0.1)])
    torch.testing.assert_close(out[0, 1, :, 2:4], out[0, 0, :, 2:4], atol=0, rtol=0)


def test_hue_turns_as_colour_circles_do() -> None:
    """A third of a turn takes red to green and green to blue, in hue."""
    red = torch.zeros(1, 1, 3, 1, 1)
    red[0, 0, 0] = 0.6
    out = jitter_colours(red, [ColourShift(1, 1, 1, 1 / 3)]).flatten().tolist()
    hue = colorsys.rgb_to_hsv(*out)[0]
    assert min(abs(hue - third) for third in (1 / 3, 2 / 3)) < 0.06


def test_draw_stays_within_the_amounts() -> None:
    amounts = JitterConfig(brightness=0.2, contrast=0.1, saturation=0.0, hue=0.05)
    draws = [ColourShift.draw(np.random.default_rng(i), amounts) for i in range(200)]
    assert max(abs(d.brightness - 1) for d in draws) <= 0.2
    assert max(abs(d.contrast - 1) for d in draws) <= 0.1
    assert {d.saturation for d in draws} == {1.0}
    assert 0.04 < max(abs(d.hue) for d in draws) <= 0.05


def test_wrong_number_of_shifts() -> None:
    with pytest.raises(ValueError, match="1 shifts do not fit"):
        jitter_colours(torch.rand(2, 1, 3, 2, 2), [NEUTRAL])


@given(seed=st.integers(0, 200))
def test_a_painted_spot_stays_under_its_landmark(seed: int) -> None:
    """A soft spot is drawn; after the move its centre of mass is where the landmark went."""
    rng = np.random.default_rng(seed)
    spot = rng.uniform(24, 40, 2)
    rows, columns = np.indices((64, 64)) + 0.5
    soft = 255 * np.exp(-((columns - spot[0]) ** 2 + (rows - spot[1]) ** 2) / 18)
    frame = soft.round().astype(np.uint8)[..., None].repeat(3, 2)
    config = SimilarityConfig(shift=0.1, zoom=0.15, turn_deg=30)
    moved, points = Similarity.draw(rng, config, 64).apply(frame, np.tile(spot, (68, 1)))
    weight = moved[..., 0].astype(float)
    weight[np.hypot(columns - points[0, 0], rows - points[0, 1]) > 14] = (
        0  # the mirrored edge is not the spot
    )
    centre = (columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()
    np.testing.assert_allclose(centre, points[0], atol=0.3)


def test_a_similarity_keeps_shape_and_missing_faces() -> None:
    frame, points = _face()
    points[:] = np.nan
    config = SimilarityConfig(shift=0.4, zoom=0.4, turn_deg=45)
    for seed in range(20):
        moved, gone = Similarity.draw(np.random.default_rng(seed), config, 24).apply(frame, points)
        assert moved.shape == frame.shape
        assert moved.dtype == np.uint8
        assert gone.dtype == np.float32
        assert np.isnan(gone).all()


def test_the_neutral_similarity_changes_nothing() -> None:
    frame, points = _face()
    same, there = Similarity(np.eye(2), np.zeros(2)).apply(frame, points)
    np.testing.assert_array_equal(same, frame)
    np.testing.assert_allclose(there, points)
