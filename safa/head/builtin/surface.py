"""The surface of the head: a skull, jaw and neck swept through key outlines, and the face shaped on it.

Every outline is a closed curve round the head, given where it crosses the front, the side and the back.
Between outlines the crossings follow smooth curves of the row parameter ``t``; round an outline the surface
is a superellipse of the azimuth ``theta`` (0 front, +pi/2 the subject's left, pi back).

The face is what is pushed out of, or into, that plain head: displacements of points of the front surface that
depend on their x and y alone, so grid vertices and the rings round eyes and mouth are shaped alike. Lengths
of the face are in millimetres.
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
_ROW_OF_KEY = np.concatenate([[0], np.cumsum(ROWS_BETWEEN)])  # (keys,)
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
    return np.stack([radius * sine, y, side_z + radius * cosine], axis=-1) * MM  # three of (...) -> (..., 3)


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


EYE = np.array([32.0, 20.0, 44.0])  # centre of the left eyeball
EYE_RADIUS = 12.5
MOUTH_Y = -46.0
MOUTH_HALF_WIDTH = 25.0

# Height of the nose's ridge over the plain face, and half its width, by y.
_NOSE = np.array(
    [  # y, height, width
        [-36, 0, 5],
        [-30, 0.8, 5],
        [-26, 2.5, 5],
        [-23.5, 7.5, 6],
        [-21.5, 14.5, 7],
        [-19.5, 19.5, 8],
        [-17.5, 21.2, 9],
        [-15, 21, 9],  # tip
        [-12, 19, 8.6],
        [-5, 15.5, 7.6],
        [5, 10, 7],
        [15, 4.8, 6.6],
        [21, 1.2, 7],
        [27, -1.6, 8],  # root
        [34, -0.8, 9],
        [42, 0, 10],
    ]
)
_NOSE_HEIGHT, _NOSE_WIDTH = (PchipInterpolator(_NOSE[:, 0], _NOSE[:, column]) for column in (1, 2))


def bump(x: Array, y: Array, at: tuple[float, float], size: tuple[float, float], power: float = 2.0) -> Array:
    """A hill of height 1 at ``at`` and of radii ``size``; higher powers have flatter tops."""
    hill: Array = np.exp(
        -0.5 * (np.abs((x - at[0]) / size[0]) ** power + np.abs((y - at[1]) / size[1]) ** power)
    )
    return hill


def smoothstep(value: Array, low: Array | float, high: Array | float) -> Array:
    """0 below ``low``, 1 above ``high``, smooth between."""
    step: Array = np.clip((value - low) / (high - low), 0, 1)
    smooth: Array = step * step * (3 - 2 * step)
    return smooth


def _nose(x: Array, y: Array) -> Array:
    side = np.abs(x)
    within = np.clip(y, _NOSE[0, 0], _NOSE[-1, 0])
    ridge = _NOSE_HEIGHT(within) * np.exp(-0.5 * (side / _NOSE_WIDTH(within)) ** 2.2)
    ball = 1.5 * bump(x, y, (0.0, -14.5), (6.5, 5.0), 2.4)
    wing = 8.5 * bump(side, y, (14.0, -17.3), (4.0, 5.0), 2.6)
    # The flank: skin that rises from the cheek to the ridge.
    flank = 5.0 * bump(side, y, (8.0, -2.0), (8.5, 15.0))
    # The furrow round the wing, deepest where the wing meets the cheek.
    away = np.hypot((side - 13.5) / 6.6, (y + 17.0) / 7.0)
    furrow = -1.8 * np.exp(-0.5 * ((away - 1.25) / 0.3) ** 2) * smoothstep(side, 11.0, 17.0)
    nostril = -4.5 * bump(side, y, (6.8, -23.5), (2.8, 2.2))
    nose: Array = ridge + ball + wing + flank + furrow + nostril
    return nose


def _brow_and_eyes(x: Array, y: Array) -> Array:
    side = np.abs(x)
    arch = 40.0 + 2.5 * np.exp(-0.5 * ((side - 36) / 12) ** 2)
    ridge = 3.6 * np.exp(-0.5 * ((y - arch) / 5.5) ** 2) * bump(side, y, (28.0, 38.0), (20.0, 40.0), 4.0)
    socket = -9.5 * bump(side, y, (30.0, 20.5), (15.0, 11.0), 2.6)
    inner = -3.5 * bump(side, y, (16.0, 21.0), (5.0, 8.0))
    temple = -3.5 * bump(side, y, (66.0, 45.0), (9.0, 20.0))
    below = -1.3 * bump(side, y, (26.0, 5.0), (10.0, 3.5))
    return ridge + socket + inner + temple + below


def _cheeks_and_chin(x: Array, y: Array) -> Array:
    side = np.abs(x)
    cheekbone = 5.5 * bump(side, y, (44.0, -2.0), (13.0, 11.0))
    hollow = -2.5 * bump(side, y, (46.0, -36.0), (12.0, 14.0))
    apple = 2.6 * bump(side, y, (31.0, -16.0), (12.0, 11.0))
    fold = (
        -1.5
        * np.exp(-0.5 * ((side - (22 + 0.35 * (-20 - y))) / 2.6) ** 2)
        * bump(y, y, (-32.0, -32.0), (9.0, 9.0))
    )
    muzzle = 3.8 * bump(side, y, (0.0, -44.0), (23.0, 17.0), 2.4)
    philtrum = -1.0 * bump(side, y, (0.0, -32.0), (2.3, 5.0))
    under_lip = -5.5 * bump(side, y, (0.0, -63.0), (15.0, 5.0))
    chin = 4.0 * bump(side, y, (0.0, -82.0), (13.0, 9.0))
    return cheekbone + hollow + apple + fold + muzzle + philtrum + under_lip + chin


def sculpt(points: Array, base_xy: Array) -> Array:
    """Give points (N, 3) of the plain head, metres, their face.

    Args:
        base_xy: (N, 2), where each point is looked up; its own x and y.
    """
    x, y = base_xy[:, 0] / MM, base_xy[:, 1] / MM
    z = points[:, 2] / MM
    in_front = smoothstep(z, -15.0, 15.0)
    depth = (_nose(x, y) + _brow_and_eyes(x, y) + _cheeks_and_chin(x, y)) * in_front
    # The tip of the nose overhangs; its wings bulge sideways.
    droop = -3.0 * bump(x, y, (0.0, -18.0), (9.0, 4.5)) - 0.6 * bump(np.abs(x), y, (13.0, -19.0), (4.0, 3.5))
    flare = np.sign(x) * 1.8 * bump(np.abs(x), y, (14.5, -17.5), (4.5, 5.0))
    # The jaw narrows towards the chin.
    taper = 0.04 * bump(y, y, (-84.0, -84.0), (20.0, 20.0)) * smoothstep(z, -15.0, 40.0)
    # Under its edge, which rises from the chin to the ear, the throat falls back.
    edge = np.interp(z, [-20.0, 0.0, 50.0, 62.0], [-46.0, -60.0, -89.0, -98.0])
    taper += 0.13 * smoothstep(edge - y, -4.0, 13.0) * smoothstep(z, -32.0, -8.0)
    moved = points.copy()
    moved[:, 0] += (flare * in_front - taper * x) * MM
    moved[:, 1] += droop * in_front * MM
    moved[:, 2] += depth * MM
    return moved


def lid_offset(outward: Array, upper: Bools) -> Array:
    """Height of the edge of an eyelid over the eyeball's centre, mm.

    Args:
        outward: -1 at the corner near the nose, 1 at the outer one.
        upper: whether it is the upper lid.
    """
    round_off = np.clip(1 - outward**2, 0, None)
    top = 5.6 * round_off**0.7
    bottom = -4.7 * round_off**0.85
    return 0.9 * outward + np.where(upper, top, bottom)


LID_HALF_WIDTH = 14.8


def lid_depth(points: Array, centre: Array, clearance: float) -> Array:
    """z (N,), mm, of a lid over the eyeball: ``clearance`` outside it, levelling out towards the corners."""
    across, up, _ = (points / MM - centre).T  # (N, 3) -> three of (N,)
    sphere = np.sqrt(np.maximum((EYE_RADIUS + clearance) ** 2 - across**2 - up**2, 0))
    # The corner near the nose lies further forward than the outer one.
    corner = 5.6 - 1.0 * np.sign(centre[0]) * np.clip(across / LID_HALF_WIDTH, -1, 1)
    smooth = 1.0
    depth: Array = centre[2] + 0.5 * (sphere + corner + np.sqrt((sphere - corner) ** 2 + smooth**2))
    return depth


def clear_of_eyeball(points: Array, centre: Array, clearance: float) -> Array:
    """Push points (N, 3), metres, forward to lie ``clearance`` mm outside an eyeball (centre in mm)."""
    across, up, _ = (points / MM - centre).T  # (N, 3) -> three of (N,)
    front = lid_depth(points, centre, clearance) * MM
    near = (across**2 + up**2 < (EYE_RADIUS + clearance) ** 2) & (points[:, 2] > 0)
    moved = points.copy()
    moved[near, 2] = np.maximum(points[near, 2], front[near])
    return moved
