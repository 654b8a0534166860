"""The head without a face: a skull, jaw and neck swept through key outlines.

Every outline is a closed curve round the head, given where it crosses the front, the side and the back.
Between outlines the crossings follow smooth curves of the row parameter ``t``; round an outline the surface
is a superellipse of the azimuth ``theta`` (0 front, +pi/2 the subject's left, pi back).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

MM = 1e-3
# front y, z | side x, y, z | back y, z | roundness (2 is an ellipse, more is squarer); millimetres.
KEY_OUTLINES = np.array(
    [
        [127, -25, 0.5, 127, -25, 127, -25, 2.0],  # crown
        [124.5, 2, 32, 122.5, -27, 120, -60, 2.0],
        [115.5, 33, 54, 109, -29, 102, -90, 2.05],
        [101, 54, 66.5, 89, -31, 78, -108, 2.1],
        [76, 66, 74.5, 64, -32, 50, -114, 2.25],  # forehead
        [44, 70, 76, 38, -30, 22, -112, 2.3],  # brows
        [20, 67, 74, 16, -26, 0, -106, 2.25],  # eyes
        [-2, 67, 69.5, -2, -23, -18, -97, 2.15],  # cheekbones
        [-25, 69, 63.5, -20, -20, -36, -88, 2.1],  # below the nose
        [-46, 70.5, 58, -36, -17, -53, -80, 2.0],  # mouth
        [-65, 70, 53.5, -48, -15, -68, -76, 2.0],  # above the chin
        [-80, 67.5, 49.5, -58, -16, -80, -74, 2.0],  # chin
        [-93, 59, 46, -67, -19, -92, -73, 2.0],  # jaw edge
        [-98, 38, 44, -80, -24, -104, -72, 2.0],  # under the chin
        [-106, 14, 45.5, -98, -27, -118, -74, 2.0],  # throat
        [-130, 10, 48, -128, -29, -138, -76, 2.0],
        [-168, 18, 56, -165, -31, -168, -84, 2.0],  # base of the neck
    ]
)
BROWS, EYES, MOUTH, JAW_EDGE, THROAT = 5.0, 6.0, 9.0, 12.0, 14.0
ROWS_BETWEEN = [2, 2, 3, 4, 9, 8, 6, 9, 5, 4, 3, 3, 2, 3, 3, 2]
COLUMN_KEYS = [0, 7, 15, 22, 27]  # columns from the front to the back of one half ...
COLUMN_DEGREES = [0, 11, 29, 90, 180]  # ... and where they lie: dense in front

NUM_ROWS = sum(ROWS_BETWEEN) + 1
HALF_COLUMNS = COLUMN_KEYS[-1]
NUM_COLUMNS = 2 * HALF_COLUMNS

_OUTLINES = Akima1DInterpolator(np.arange(len(KEY_OUTLINES)), KEY_OUTLINES, method="makima")
_ROW_OF_KEY = np.concatenate([[0], np.cumsum(ROWS_BETWEEN)])
_T_OF_ROW = PchipInterpolator(_ROW_OF_KEY, np.arange(len(KEY_OUTLINES)))
_ROW_OF_T = PchipInterpolator(np.arange(len(KEY_OUTLINES)), _ROW_OF_KEY)
# Both halves at once, so that the columns stay evenly spaced across the middle of the face.
_SIGNED_COLUMNS = np.array([-c for c in COLUMN_KEYS[:0:-1]] + COLUMN_KEYS)
_SIGNED_THETAS = np.deg2rad([-d for d in COLUMN_DEGREES[:0:-1]] + COLUMN_DEGREES)
_THETA_OF_COLUMN = PchipInterpolator(_SIGNED_COLUMNS, _SIGNED_THETAS)
_COLUMN_OF_THETA = PchipInterpolator(_SIGNED_THETAS, _SIGNED_COLUMNS)


def t_of_row(row: Array) -> Array:
    """Row parameter of a grid row (may be fractional)."""
    return np.asarray(_T_OF_ROW(row))


def row_of_t(t: Array) -> Array:
    return np.asarray(_ROW_OF_T(t))


def theta_of_column(column: Array) -> Array:
    """Azimuth of a grid column; column 0 is the front, positive ones are on the subject's left."""
    return np.asarray(_THETA_OF_COLUMN(column))


def column_of_theta(theta: Array) -> Array:
    return np.asarray(_COLUMN_OF_THETA(theta))


def surface(t: Array, theta: Array) -> Array:
    """Points (..., 3) in metres at row parameters and azimuths of the same shape (...)."""
    front_y, front_z, side_x, side_y, side_z, back_y, back_z, power = np.moveaxis(_OUTLINES(t), -1, 0)
    sine, cosine = np.sin(theta), np.cos(theta)
    in_front = cosine >= 0
    depth = np.where(in_front, front_z - side_z, side_z - back_z)
    radius = ((np.abs(sine) / side_x) ** power + (np.abs(cosine) / np.maximum(depth, 0.5)) ** power) ** (
        -1 / power
    )
    end_y = np.where(in_front, front_y, back_y)
    y = side_y + (end_y - side_y) * cosine**2
    return np.stack([radius * sine, y, side_z + radius * cosine], axis=-1) * MM


def invert_front(x: Array, y: Array, steps: int = 12) -> tuple[Array, Array]:
    """Row parameter and azimuth of the front surface at given x, y (metres), by Newton's method."""
    t = np.interp(-y / MM, -KEY_OUTLINES[:, 0], np.arange(len(KEY_OUTLINES), dtype=float))
    theta = np.arcsin(np.clip(x / (90 * MM), -0.9, 0.9))
    h = 1e-4
    for _ in range(steps):
        here = surface(t, theta)[..., :2]
        by_t = (surface(t + h, theta)[..., :2] - here) / h
        by_theta = (surface(t, theta + h)[..., :2] - here) / h
        error_x, error_y = x - here[..., 0], y - here[..., 1]
        determinant = by_t[..., 0] * by_theta[..., 1] - by_t[..., 1] * by_theta[..., 0]
        t = t + (error_x * by_theta[..., 1] - error_y * by_theta[..., 0]) / determinant
        theta = theta + (error_y * by_t[..., 0] - error_x * by_t[..., 1]) / determinant
    return t, theta
