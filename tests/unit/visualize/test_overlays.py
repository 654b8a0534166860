from __future__ import annotations

import math

import numpy as np

from safa.visualize.overlays import ESTIMATED, TARGET, normalised_to_px, with_keypoints, with_landmarks

BLACK = np.zeros((32, 32, 3), np.uint8)


def test_the_corners_of_the_normalised_frame_are_the_corner_pixels() -> None:
    corners = np.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    assert normalised_to_px(corners, 65).tolist() == [[0, 0], [64, 64], [32, 32]]


def test_a_keypoint_is_drawn_where_it_is() -> None:
    drawn = with_keypoints(BLACK, np.array([[8.0, 20.0]]), panel=128)
    assert drawn.shape == (128, 128, 3)
    rows, columns = np.nonzero(drawn.any(-1))
    # The middle of pixel (20, 8), four times enlarged.
    assert abs(rows.mean() - 81.5) < 1
    assert abs(columns.mean() - 33.5) < 1


def test_every_keypoint_has_a_colour_of_its_own() -> None:
    points = np.array([[5.0, 5.0], [16.0, 16.0], [26.0, 26.0]])
    drawn = with_keypoints(BLACK, points, panel=128)
    middles = {tuple(drawn[int(4 * y + 1.5), int(4 * x + 1.5)]) for x, y in points}
    assert len(middles) == 3
    assert (0, 0, 0) not in middles


def test_faces_are_drawn_each_in_its_colour() -> None:
    angle = np.linspace(0, 6, 68)
    target = np.stack([16 + 8 * np.cos(angle), 16 + 8 * np.sin(angle)], axis=1)
    drawn = with_landmarks(BLACK, [(target, TARGET), (target + 4, ESTIMATED)], panel=64)
    colours = {tuple(colour) for colour in drawn.reshape(-1, 3).tolist()}
    assert {TARGET, ESTIMATED} <= colours


def test_a_frame_without_a_face_stays_as_it_is() -> None:
    drawn = with_landmarks(BLACK, [(np.full((68, 2), math.nan), TARGET)], panel=32)
    assert (drawn == BLACK).all()
    assert (BLACK == 0).all()
