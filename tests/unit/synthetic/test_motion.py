"""Synthetic motion: smooth, within its limits, as much as asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safa.config.synthetic import MotionConfig
from safa.synthetic.motion import (
    HeadPose,
    Restlessness,
    blinks,
    gestures,
    limit,
    narrowing,
    smooth_noise,
    turns,
)

FPS = 25.0


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _pose(seed: int, frames: int, amplitude: float, config: MotionConfig | None = None) -> HeadPose:
    return Restlessness.draw(_rng(seed), frames, FPS).scaled(config or MotionConfig(), amplitude)


def test_smooth_noise_has_unit_variance_and_no_power_above_its_band() -> None:
    hertz = 1.0
    curve = smooth_noise(_rng(), 4000, FPS, hertz)
    power = np.abs(np.fft.rfft(curve)) ** 2
    frequency = np.fft.rfftfreq(len(curve), 1 / FPS)
    assert power[frequency > 3 * hertz].sum() < 1e-3 * power.sum()
    assert curve.std() == pytest.approx(1, abs=0.25)


@given(st.floats(-1e3, 1e3), st.floats(0.01, 100))
def test_limit_is_never_passed_and_keeps_the_order(value: float, bound: float) -> None:
    low, high = limit(np.array([value, value + 0.1]), bound)
    assert abs(low) <= bound * (1 + 1e-9)
    assert low - high <= 1e-9 * bound  # rounding


def test_limit_leaves_small_values_alone() -> None:
    small = np.linspace(-0.3, 0.3, 11)
    np.testing.assert_allclose(limit(small, 1.0), small, rtol=3e-3)


@pytest.mark.parametrize("seed", range(8))
def test_poses_stay_within_the_limits_and_move_smoothly(seed: int) -> None:
    config = MotionConfig()
    pose = _pose(seed, 100, 1.0)
    limits = {"yaw": config.yaw_deg, "pitch": config.pitch_deg, "roll": config.roll_deg}
    for name, bound in limits.items():
        degrees = np.degrees(getattr(pose, name))
        assert np.abs(degrees).max() <= bound
        assert np.abs(np.diff(degrees, n=2)).max() < 0.12 * bound  # no jerks from frame to frame
    assert np.abs(pose.zoom - 1).max() <= config.zoom
    assert np.abs(pose.sway_x).max() <= config.sway


def test_every_video_turns_the_head_far_from_its_first_frame() -> None:
    for seed in range(20):
        yaw = _pose(seed, 90, 1.0).yaw
        assert np.degrees(np.ptp(yaw)) > 20
        assert np.degrees(np.sqrt(np.mean((yaw - yaw[0]) ** 2))) > 10


def test_amplitude_scales_the_motion_and_zero_limits_stop_it() -> None:
    lively = _pose(3, 80, 1.0)
    calm = _pose(3, 80, 0.5)
    assert np.ptp(calm.yaw) < 0.75 * np.ptp(lively.yaw)
    still = MotionConfig(yaw_deg=0.0, pitch_deg=0.0, roll_deg=0.0, sway=0.0, zoom=0.0)
    pose = _pose(3, 80, 1.0, still)
    assert all(
        np.ptp(getattr(pose, name)) == 0 for name in ("yaw", "pitch", "roll", "sway_x", "sway_y", "zoom")
    )


def test_turns_start_near_the_front() -> None:
    assert all(abs(turns(_rng(seed), 50, FPS)[0]) < 0.5 for seed in range(20))


def test_blinks_close_the_eyes_for_200_to_500_ms_with_short_pauses() -> None:
    fast = 1000.0
    curve = blinks(_rng(5), 30_000, fast)  # half a minute
    closed = np.concatenate([[False], curve > 1e-9, [False]])
    edges = np.flatnonzero(np.diff(closed.astype(int)))
    starts, ends = edges[::2], edges[1::2]
    lengths = (ends - starts) / fast
    assert lengths.min() > 0.19
    assert lengths.max() < 0.51
    pauses = (starts[1:] - ends[:-1]) / fast
    assert pauses.min() > 0.29
    assert pauses.max() < 1.21
    assert curve.max() == pytest.approx(1, abs=1e-6)


def test_lids_come_down_between_blinks_and_often_do_not() -> None:
    curve = narrowing(_rng(2), 2000, FPS)
    assert 0.3 < (curve == 0).mean() < 0.8
    assert 0.5 < curve.max() <= 0.7
    lids = gestures(_rng(2), 2000, FPS, amplitude=0.5).blink
    assert ((lids > 0.1) & (lids < 0.6)).mean() > 0.15
    assert lids.max() == pytest.approx(1, abs=0.05)  # a blink is whole whatever the amplitude


def test_a_blink_shows_at_video_rate() -> None:
    for seed in range(20):
        assert blinks(_rng(seed), 64, FPS).max() > 0.6


def test_gestures_stay_between_nothing_and_all() -> None:
    for seed in range(8):
        done = gestures(_rng(seed), 100, FPS, amplitude=1.0)
        for name, curve in vars(done).items():
            assert curve.shape == (100,), name
            assert curve.min() >= 0, name
            assert curve.max() <= 1, name


def test_speech_opens_the_jaw_at_syllable_rate_and_closes_it_again() -> None:
    jaw = gestures(_rng(1), 250, FPS, amplitude=1.0).jaw
    openings = ((jaw[1:-1] > jaw[:-2]) & (jaw[1:-1] >= jaw[2:]) & (jaw[1:-1] > 0.1)).sum()
    assert 15 <= openings <= 60  # in ten seconds
    assert (jaw < 0.05).mean() > 0.1


def test_the_same_stream_gives_the_same_motion_whatever_the_amplitude_of_others() -> None:
    first = gestures(_rng(4), 60, FPS, amplitude=1.0)
    second = gestures(_rng(4), 60, FPS, amplitude=1.0)
    for name, curve in vars(first).items():
        np.testing.assert_array_equal(curve, getattr(second, name))
