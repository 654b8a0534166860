"""Crop boxes: steady over time, exact to parts of a pixel, and pasted back where they came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from safa.inference.face_crop import (
    centre_crop_box,
    crop_box_of_landmarks,
    crop_face,
    jitter,
    paste_face,
    smooth_track,
)

RAW = Path(__file__).parents[4] / "shared" / "real" / "raw"
FPS = 30.0


def _walk(frames: int, noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    path = np.stack([np.linspace(200, 260, frames), np.full(frames, 150.0), np.full(frames, 120.0)], 1)
    return path + noise * rng.standard_normal(path.shape)


@pytest.mark.parametrize("name", ["lp_d10", "lp_d18", "lp_s18"])
def test_real_faces_do_not_flicker(name: str) -> None:
    path = RAW / f"{name}.landmarks.npy"
    if not path.is_file():
        pytest.skip("the real clips (../shared/real) are not here")
    crop_boxes = crop_box_of_landmarks(np.load(path, allow_pickle=False))
    track = smooth_track(crop_boxes, FPS)
    assert jitter(track.crop_boxes) < 1.0
    assert jitter(track.crop_boxes) < 0.05 * jitter(crop_boxes)
    # Steady, and still on the face: its centre stays in the middle tenth of the crop.
    away = np.abs(track.crop_boxes[:, :2] - crop_boxes[:, :2]).max(axis=1)
    assert (away < 0.1 * track.crop_boxes[:, 2]).all()


def test_a_straight_walk_is_followed_without_delay() -> None:
    detected, truth = _walk(300, noise=2.0), _walk(300, noise=0.0)
    inner = slice(90, -90)  # three standard deviations from either end
    assert np.abs(smooth_track(detected, FPS).crop_boxes - truth)[inner].max() < 1.5


def test_gaps_and_strangers_do_not_move_the_crop() -> None:
    detected = _walk(200, noise=0.0)
    clean = smooth_track(detected, FPS)
    detected[60:75] = np.nan
    detected[120] = (20, 400, 40)
    track = smooth_track(detected, FPS)
    assert np.abs(track.crop_boxes - clean.crop_boxes).max() < 1e-3
    assert track.seen.sum() == 185
    assert not track.was_seen(60)
    assert not track.was_seen(10_000)
    assert np.isfinite(track.crop_box(10_000)).all()


def test_faces_in_as_many_places_as_frames_are_all_kept() -> None:
    boxes = np.array([[50.0, 50.0, 40.0], [500.0, 300.0, 90.0]])
    assert smooth_track(boxes, 25.0).crop_boxes.mean(axis=0) == pytest.approx(boxes.mean(axis=0))


def test_scenes_are_smoothed_each_for_itself() -> None:
    first, second = _walk(40, 0.0), _walk(30, 0.0) + np.array([400.0, 100.0, 200.0])
    both = np.concatenate([first, second])
    track = smooth_track(both, FPS, [40])
    for part, alone in ((track.crop_boxes[:40], first), (track.crop_boxes[40:], second)):
        assert (part == smooth_track(alone, FPS).crop_boxes).all()
    assert np.abs(smooth_track(both, FPS).crop_boxes[:40] - first).max() > 50  # else the box glides over
    nowhere = np.concatenate([first, np.full((10, 3), np.nan), second])
    track = smooth_track(nowhere, FPS, [40, 50])
    assert np.isfinite(track.crop_boxes).all()
    assert (track.crop_boxes[:40] == smooth_track(first, FPS).crop_boxes).all()
    assert list(track.seen) == [True] * 40 + [False] * 10 + [True] * 30


def test_a_video_without_a_face_is_refused() -> None:
    with pytest.raises(ValueError, match="no face"):
        smooth_track(np.full((4, 3), np.nan), FPS)


def test_whole_pixels_are_cropped_exactly() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    assert (crop_face(frame, np.array([30.0, 20.0, 16.0]), 16) == frame[12:28, 22:38]).all()


def test_half_a_pixel_is_half_a_pixel() -> None:
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], 40, 0).repeat(3, 2)
    shifted = crop_face(ramp, np.array([30.5, 20.0, 16.0]), 16).astype(int)
    still = crop_face(ramp, np.array([30.0, 20.0, 16.0]), 16).astype(int)
    assert np.abs(shifted - still - 2).max() <= 1


def test_over_the_edge_the_edge_is_repeated() -> None:
    frame = np.zeros((20, 20, 3), np.uint8)
    frame[:, 0] = 200
    face = crop_face(frame, np.array([0.0, 10.0, 20.0]), 20)
    assert (face[:, :9] == 200).all()


def test_a_crop_is_pasted_back_where_it_was() -> None:
    rows, columns = np.mgrid[0:90, 0:120]
    frame = np.stack([rows * 2, columns * 2, rows + columns], -1).astype(np.uint8)
    for crop_box in ([60.3, 44.6, 50.2], [10.0, 80.0, 60.0], [60.0, 45.0, 400.0]):
        box = np.array(crop_box)
        back = paste_face(frame, box, crop_face(frame, box, 64))
        assert np.abs(back.astype(int) - frame).mean() < 1.0


def test_edges_are_soft_and_the_rest_is_untouched() -> None:
    frame = np.zeros((100, 100, 3), np.uint8)
    back = paste_face(frame, np.array([50.0, 50.0, 40.0]), np.full((64, 64, 3), 200, np.uint8))
    assert (back[:30] == 0).all()
    assert (back[:, 70:] == 0).all()
    assert (back[40:60, 40:60] == 200).all()
    assert np.abs(np.diff(back[50, :, 0].astype(int))).max() < 80
    assert (frame == 0).all()


def test_the_centre_square() -> None:
    assert centre_crop_box(640, 480).tolist() == [320, 240, 480]
