"""Identity directions: how heads differ. Coefficients of a standard normal give believable people."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from safa.head.builtin.mesh import Mesh
from safa.head.builtin.surface import EYE, MM, MOUTH_Y, Array, bump, smoothstep

NUM_IDENTITIES = 100
EAR = np.array([76.0, 4.0, -27.0])  # middle of the left ear, mm


class Head:
    """Coordinates of the points that are moved; millimetres, (N,) each."""

    def __init__(self, points: Array, lips: Array, ears: Array) -> None:
        self.x, self.y, self.z = (points / MM).T  # (N, 3) -> three of (N,)
        self.side, self.sign = np.abs(self.x), np.tanh(self.x / 3.0)
        self.front = smoothstep(self.z, -15.0, 20.0)
        self.lips, self.ears = lips, ears

    def at(self, x: float, y: float, rx: float, ry: float, power: float = 2.0) -> Array:
        """A hill on both sides of the face."""
        return self.front * bump(self.side, self.y, (x, y), (rx, ry), power)

    def below(self, high: float, low: float) -> Array:
        """0 above y = ``high``, 1 below ``low``."""
        return 1 - smoothstep(self.y, low, high)


def _move(x: Array | float = 0.0, y: Array | float = 0.0, z: Array | float = 0.0) -> Array:
    return np.stack(np.broadcast_arrays(x, y, z), axis=-1).astype(float)  # three of (N,) -> (N, 3)


def _jaw(h: Head) -> Array:
    return h.below(0.0, -55.0) * smoothstep(h.y, -125.0, -95.0)


def _ear_offset(h: Head) -> Array:
    return np.stack([h.side - EAR[0], h.y - EAR[1], h.z - EAR[2]], axis=-1)  # (N, 3)


# ``[:, None]`` in the table: (N,) -> (N, 1), to scale displacements (N, 3).
_NAMED: dict[str, Callable[[Head], Array]] = {
    "head_width": lambda h: _move(x=0.04 * h.x),
    "face_length": lambda h: _move(y=0.035 * h.y),
    "head_depth": lambda h: _move(z=0.045 * (h.z + 20)),
    "jaw_width": lambda h: _move(x=0.08 * h.x * _jaw(h)),
    "lower_face_length": lambda h: _move(y=-3.2 * h.below(-15.0, -85.0)),
    "nose_projection": lambda h: _move(z=3.2 * h.at(0, -11, 8, 13)),
    "nose_width": lambda h: _move(x=2.0 * h.sign * h.at(12, -17, 6, 9)),
    "nose_length": lambda h: _move(y=-2.8 * h.at(0, -18, 15, 9, 2.6)),
    "nose_bridge": lambda h: _move(x=0.5 * h.sign * h.at(6, 8, 5, 13), z=2.6 * h.at(0, 10, 6.5, 12)),
    "nose_tip_up": lambda h: _move(y=2.2 * h.at(0, -15, 8, 6), z=0.6 * h.at(0, -17, 7, 6)),
    "eye_spacing": lambda h: _move(x=1.8 * h.sign * h.at(32, 24, 20, 20, 4.0)),
    "eye_opening": lambda h: _move(y=0.13 * (h.y - EYE[1]) * h.at(32, 20, 15, 9, 4.0)),
    "eye_tilt": lambda h: _move(y=0.08 * (h.side - EYE[0]) * h.at(32, 20, 17, 12, 4.0)),
    "eye_height": lambda h: _move(y=1.8 * h.at(32, 24, 24, 20, 4.0)),
    "brow_ridge": lambda h: _move(z=2.4 * h.at(26, 39, 20, 7)),
    "brow_height": lambda h: _move(y=2.4 * h.at(32, 42, 22, 8)),
    "lip_thickness": lambda h: _move(
        y=0.20 * (h.y - MOUTH_Y) * h.lips, z=0.9 * h.lips * h.at(0, MOUTH_Y, 16, 9)
    ),
    "mouth_width": lambda h: _move(x=0.10 * h.x * h.at(0, MOUTH_Y, 28, 15, 3.0)),
    "mouth_height": lambda h: _move(y=2.0 * h.at(0, MOUTH_Y, 32, 14, 2.6)),
    "muzzle": lambda h: _move(z=2.2 * h.at(0, MOUTH_Y, 24, 17)),
    "chin_forward": lambda h: _move(z=3.2 * h.at(0, -82, 18, 14)),
    "chin_width": lambda h: _move(x=2.2 * h.sign * h.at(17, -86, 11, 14)),
    "chin_length": lambda h: _move(y=-2.4 * h.at(0, -88, 20, 13)),
    "cheekbones": lambda h: _move(x=2.4 * h.sign * h.at(52, -2, 16, 13), z=2.0 * h.at(44, -2, 14, 11)),
    "cheek_fullness": lambda h: _move(x=3.0 * h.sign * h.at(46, -38, 15, 18), z=2.6 * h.at(40, -36, 15, 16)),
    "forehead_height": lambda h: _move(y=5.0 * smoothstep(h.y, 45.0, 125.0)),
    "forehead_slope": lambda h: _move(z=-4.5 * h.front * bump(h.y, h.y, (88.0, 88.0), (36.0, 36.0))),
    "temples": lambda h: _move(x=2.6 * h.sign * bump(h.y, h.z, (55.0, 20.0), (26.0, 32.0))),
    "back_of_head": lambda h: _move(z=-6.0 * smoothstep(-h.z, 20.0, 110.0)),
    "ear_size": lambda h: (
        0.09 * _ear_offset(h) * np.stack([h.sign, h.sign**2, h.sign**2], -1) * h.ears[:, None]
    ),
    "ear_flare": lambda h: _move(x=-0.16 * h.sign * (h.z + 14) * h.ears),
    "ear_height": lambda h: _move(y=2.5 * h.ears),
    "neck_width": lambda h: _move(x=0.09 * h.x * h.below(-75.0, -120.0)),
    "neck_depth": lambda h: _move(z=0.09 * (h.z + 30) * h.below(-85.0, -120.0)),
    "under_chin": lambda h: _move(
        y=-4.0 * bump(h.side, h.z, (0.0, 25.0), (22.0, 20.0)) * h.below(-80.0, -94.0)
    ),
    "eye_depth": lambda h: _move(z=-1.6 * h.at(32, 22, 20, 16, 3.0)),
    "nose_aside": lambda h: _move(x=1.1 * h.at(0, -8, 11, 16)),
    "jaw_aside": lambda h: _move(x=1.6 * h.below(-40.0, -80.0) * h.front * smoothstep(h.y, -125.0, -98.0)),
    "mouth_tilt": lambda h: _move(y=0.025 * h.x * h.at(0, MOUTH_Y, 30, 14, 3.0)),
    "eyes_uneven": lambda h: _move(y=0.8 * h.sign * h.at(32, 26, 22, 18, 4.0)),
}
IDENTITIES: tuple[str, ...] = tuple(_NAMED)
"""Names of the first coefficients, in order; the rest are smooth changes without a name."""


def smooth_modes(points: Array, count: int, first_size: float, seed: int) -> Array:
    """Smooth random displacements (N, 3, count) of shrinking size: waves across the head, ever shorter.

    Half of them are mirrored left and right.
    """
    rng = np.random.default_rng(seed)
    modes = []
    for index in range(count):
        wavelength = 0.22 / (1 + index / count)
        waves = rng.standard_normal((3, 3)) / wavelength * 2.0
        phase = rng.uniform(0, 2 * np.pi, 3)
        mirrored = points * [-1, 1, 1]
        mode = np.sin(points @ waves + phase)
        if index % 2 == 0:
            mode = (mode + np.sin(mirrored @ waves + phase) * [-1, 1, 1]) / np.sqrt(2)
        modes.append(mode * first_size * 0.97**index)
    return np.stack(modes, axis=-1)  # (N, 3, count)


def _keep_eyes_round(mesh: Mesh, directions: Array, at_centres: Array) -> Array:
    """Let each eyeball, with the lids on it, move as one piece: as the eye's centre does (2, 3, K)."""
    kept = directions.copy()
    for eye, (side, part) in enumerate(((1, "eye_left"), (-1, "eye_right"))):
        centre = EYE * [side, 1, 1] * MM
        distance = np.linalg.norm(mesh.vertices - centre, axis=1)
        near = 1 - smoothstep(distance, 16 * MM, 27 * MM)
        near[mesh.parts[part]] = 1
        kept += near[:, None, None] * (at_centres[eye] - kept)  # (V, 1, 1) * (V, 3, K)
    return kept


def identity_directions(mesh: Mesh) -> Array:
    """(V, 3, 100), metres for one standard deviation."""
    count = NUM_IDENTITIES - len(_NAMED)
    lips = np.zeros(len(mesh.vertices))
    lips[mesh.mouth.rings[3]] = 0.5
    lips[mesh.mouth.rings[4:]] = 1
    ears = mesh.mask("ear_left") + mesh.mask("ear_right")

    def directions(points: Array, lips: Array, ears: Array) -> Array:
        head = Head(points, lips, ears)
        named = np.stack([make(head) for make in _NAMED.values()], axis=-1) * MM  # (N, 3, names)
        # (N, 3, 100)
        return np.concatenate([named, smooth_modes(points, count, first_size=0.9 * MM, seed=1)], axis=-1)

    centres = np.array([EYE, EYE * [-1, 1, 1]]) * MM
    nowhere = np.zeros(2)
    free = directions(mesh.vertices, lips, ears)
    kept = _keep_eyes_round(mesh, free, directions(centres, nowhere, nowhere))
    for name in ("eye_opening", "eye_tilt"):  # these change the lids, not where the eye is
        index = IDENTITIES.index(name)
        kept[..., index] = free[..., index] * mesh.mask("skin")[:, None]  # (V, 3) * (V, 1)
    return kept
