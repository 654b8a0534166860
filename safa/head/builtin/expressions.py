"""Expression directions: what one unit of each coefficient does to the skin. 1 is the full expression."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from safa.head.builtin import surface
from safa.head.builtin.identities import smooth_modes
from safa.head.builtin.mesh import Mesh
from safa.head.builtin.skin import EYE_RINGS, LIP_LINE, behind_lids
from safa.head.builtin.surface import EYE, LID_HALF_WIDTH, MM, MOUTH_Y, Array, bump, smoothstep
from safa.head.builtin.topology import Ints

NUM_EXPRESSIONS = 50
# How far each eye ring, from the one next to the rim to the lid's edge, follows that edge.
_FOLLOW = (0.02, 0.08, 0.28, 0.58, 0.85, 1.0)


class Face:
    """Places on the face that expressions speak of; millimetres, (V,) each."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.x, self.y, self.z = (mesh.vertices / MM).T  # (V, 3) -> three of (V,)
        self.side = np.abs(self.x)
        self.sign = np.sign(self.x)
        self.skin = mesh.mask("skin") * smoothstep(self.z, -10.0, 12.0)
        self.upper = self._upper()
        self.lower = 1 - self.upper
        self.lips = np.zeros(len(self.x))
        self.lips[mesh.mouth.rings[4:]] = 1

    def _upper(self) -> Array:
        """1 above the mouth, 0 below, one half at its corners."""
        rings, mouth = self.mesh.mouth.rings, self.mesh.mouth
        upper = smoothstep(self.y, MOUTH_Y - 3.0, MOUTH_Y + 3.0)
        upper[rings[1:][:, mouth.upper]] = 1
        upper[rings[1:][:, mouth.lower]] = 0
        upper[rings[1:][:, [0, mouth.half]]] = 0.5
        return upper

    def at(self, x: float, y: float, rx: float, ry: float, power: float = 2.0) -> Array:
        """A hill on both sides of the face."""
        return self.skin * bump(self.side, self.y, (x, y), (rx, ry), power)

    def left(self, softness: float = 6.0) -> Array:
        """1 on the subject's left, 0 on the right."""
        return smoothstep(self.x, -softness, softness)


def _move(x: Array | float, y: Array | float, z: Array | float) -> Array:
    return np.stack(np.broadcast_arrays(x, y, z), axis=-1).astype(float)  # three of (V,) -> (V, 3)


def _smile(f: Face) -> Array:
    corner, cheek = f.at(26, -45, 8.5, 9), f.at(36, -20, 12, 10)
    lid = f.at(32, 11, 12, 4)
    return _move(
        f.sign * (6.0 * corner + 1.0 * cheek),
        5.5 * corner + 2.6 * cheek + 0.8 * lid,
        -3.0 * corner + 2.8 * cheek - 1.2 * f.at(34, -34, 4, 8),
    ) + _move(0, -0.8 * f.at(0, -44, 14, 6) * f.lips, -1.0 * f.at(0, -46, 16, 9))


def _pucker(f: Face) -> Array:
    near = f.at(0, MOUTH_Y, 24, 14, 3.0)
    lips = f.at(0, MOUTH_Y, 13, 11)
    away = f.y - MOUTH_Y
    return _move(-0.36 * f.x * near, 0.10 * away * near, 5.5 * lips + 1.5 * near)


def _wide(f: Face) -> Array:
    corner, near = f.at(25, -46, 12, 10), f.at(0, MOUTH_Y, 24, 14, 3.0)
    return _move(f.sign * 4.5 * corner, -0.12 * (f.y - MOUTH_Y) * near, -1.2 * corner - 0.8 * near)


def _mouth_open(f: Face) -> Array:
    """The lower lip and chin drop without the jaw."""
    near = f.lower * f.at(0, -52, 21, 19, 3.0)
    return _move(0, -9.0 * near + 1.2 * f.upper * f.at(0, -42, 14, 8), -1.5 * near)


def _brow_raise(f: Face) -> Array:
    brow, above = f.at(34, 42, 17, 8, 2.4), f.at(32, 62, 24, 14)
    lid = f.at(32, 31, 15, 3.5)
    return _move(0, 5.5 * brow + 2.5 * above + 1.5 * lid, 0.8 * brow)


def _brow_lower(f: Face) -> Array:
    inner, brow = f.at(15, 40, 9, 8), f.at(30, 40, 16, 7)
    return _move(-f.sign * 2.2 * inner, -3.6 * inner - 2.2 * brow, 1.4 * inner + 0.5 * brow)


def _cheek_puff(f: Face) -> Array:
    cheek = f.at(38, -42, 14, 14)
    return _move(f.sign * 4.5 * cheek, 0, 5.0 * cheek)


def _nose_wrinkle(f: Face) -> Array:
    wing, bridge = f.at(13, -14, 8, 9), f.at(0, 20, 10, 9)
    lip = f.upper * f.at(10, -36, 12, 7)
    return _move(f.sign * 0.8 * wing, 2.6 * wing + 2.2 * lip - 1.2 * f.at(14, 38, 9, 7), 0.6 * bridge)


def _jaw_shift(f: Face) -> Array:
    return _move(5.0 * f.lower * f.at(0, -68, 40, 24, 3.0), 0, 0)


# ``[:, None]`` in the tables: (V,) -> (V, 1), to scale displacements (V, 3).
_SIMPLE: dict[str, Callable[[Face], Array]] = {
    "mouth_open": _mouth_open,
    "smile_left": lambda f: _smile(f) * f.left()[:, None],
    "smile_right": lambda f: _smile(f) * (1 - f.left())[:, None],
    "frown": lambda f: _move(0, -5.5 * f.at(25, -48, 9, 9) + 0.8 * f.lips * f.at(0, -46, 10, 9), 0),
    "pucker": _pucker,
    "wide": _wide,
    "lip_press": lambda f: _move(
        0, -0.45 * (f.y - MOUTH_Y) * f.at(0, MOUTH_Y, 24, 9, 4.0), -2.2 * f.at(0, MOUTH_Y, 20, 7, 3.0)
    ),
    "upper_lip_raise": lambda f: _move(
        0, 4.5 * f.upper * f.at(0, -41, 15, 9, 2.4), 0.8 * f.at(0, -40, 14, 7)
    ),
    "lower_lip_drop": lambda f: _move(
        0, -5.0 * f.lower * f.at(0, -52, 16, 10, 2.4), 0.8 * f.at(0, -52, 14, 7)
    ),
    "brow_raise_left": lambda f: _brow_raise(f) * f.left(12.0)[:, None],
    "brow_raise_right": lambda f: _brow_raise(f) * (1 - f.left(12.0))[:, None],
    "brow_inner_raise": lambda f: _move(0, 4.5 * f.at(14, 41, 10, 8) + 1.5 * f.at(10, 58, 16, 12), 0),
    "brow_lower": _brow_lower,
    "cheek_puff": _cheek_puff,
    "nose_wrinkle": _nose_wrinkle,
    "jaw_left": _jaw_shift,
    "jaw_forward": lambda f: _move(0, 0, 4.0 * f.lower * f.at(0, -68, 36, 24, 3.0)),
    "mouth_left": lambda f: _move(5.0 * f.at(0, MOUTH_Y, 24, 14, 3.0), 0, 0),
    "chin_raise": lambda f: _move(0, 3.0 * f.lower * f.at(0, -66, 16, 14, 2.4), 2.0 * f.at(0, -76, 13, 8)),
    "dimple": lambda f: _move(f.sign * 2.5 * f.at(26, -45, 7, 7), 0, -3.0 * f.at(28, -45, 7, 7)),
}
# Share of the way that upper and lower lid go to where they meet.
_LIDS: dict[str, tuple[int, float, float]] = {
    "blink_left": (1, 1.07, 1.0),
    "blink_right": (-1, 1.07, 1.0),
    "squint_left": (1, 0.22, 2.2),
    "squint_right": (-1, 0.22, 2.2),
    "wide_eye_left": (1, -0.22, -0.9),
    "wide_eye_right": (-1, -0.22, -0.9),
}
EXPRESSIONS: tuple[str, ...] = (*_SIMPLE, *_LIDS)
"""Names of the first coefficients, in order. Blinks close the eye at 1; they and squints are one eye's."""


def _close_lids(mesh: Mesh, side: int, upper_share: float, lower_share: float) -> Array:
    """(V, 3) metres: the lids of one eye slide over the eyeball by shares of the way to where they meet."""
    ring = mesh.left_eye if side > 0 else mesh.right_eye
    centre = EYE * [side, 1, 1]
    count = ring.rings.shape[1]
    edge = mesh.vertices[ring.rings[len(EYE_RINGS)]]
    across = np.clip(side * (edge[:, 0] / MM - centre[0]) / LID_HALF_WIDTH, -1, 1)
    upper = np.arange(count) < ring.half
    meeting = 0.9 * across - 3.0 * np.clip(1 - across**2, 0, None)
    travel = (centre[1] + meeting - edge[:, 1] / MM) * np.where(upper, upper_share, lower_share)
    moved = np.zeros_like(mesh.vertices)
    for index, follow in enumerate(_FOLLOW):
        vertices = ring.rings[index + 1]
        here = mesh.vertices[vertices]
        there = here.copy()
        there[:, 1] += follow * travel * MM
        clearance = 1.0 + 0.5 * (1 - follow)
        lid = surface.lid_depth(there, centre, clearance) - surface.lid_depth(here, centre, clearance)
        there[:, 2] += follow * lid * MM
        if follow < 1 and upper_share > 0:
            there = surface.clear_of_eyeball(there, centre, clearance)
            there[:, 2] = np.maximum(there[:, 2], here[:, 2] - 2 * MM)
        moved[vertices] = there - here
    new_edge = edge + moved[ring.rings[len(EYE_RINGS)]]
    behind = behind_lids(new_edge, side) - behind_lids(edge, side)
    # (2*N, 3) -> (2, N, 3), two rings of N vertices
    moved[ring.rings[len(EYE_RINGS) + 1 :]] = behind.reshape(-1, count, 3)
    return moved


def _follow_lips(mesh: Mesh, moved: Array) -> Array:
    """Let the pocket behind the lips go along with the line between them, less and less the deeper."""
    rings = mesh.mouth.rings
    line = moved[rings[LIP_LINE + 1]]
    followed = moved.copy()
    deeper: Ints = rings[LIP_LINE + 2 :]
    for depth, ring in enumerate(deeper):
        followed[ring] = line * 0.75 ** (depth + 1) * (depth < len(deeper) - 1)
    followed[mesh.pocket_end] = 0
    return followed


def expression_directions(mesh: Mesh) -> Array:
    """(V, 3, 50) metres: ``EXPRESSIONS``, then small smooth ones without a name."""
    face = Face(mesh)
    directions = [_follow_lips(mesh, make(face) * MM) for make in _SIMPLE.values()]
    directions += [_close_lids(mesh, *lids) for lids in _LIDS.values()]
    front = smoothstep(face.z, 0.0, 40.0) * mesh.mask("skin") * smoothstep(face.y, -110.0, -90.0)
    eyes = bump(face.side, face.y, (EYE[0], EYE[1]), (17.0, 11.0), 4.0)
    count = NUM_EXPRESSIONS - len(directions)
    modes = (  # (V, 3, count)
        smooth_modes(mesh.vertices, count, first_size=0.6 * MM, seed=2) * (front * (1 - eyes))[:, None, None]
    )
    return np.concatenate([np.stack(directions, axis=-1), modes], axis=-1)  # (V, 3, 50)
