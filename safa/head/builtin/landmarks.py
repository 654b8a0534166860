"""The 68 landmarks on the mesh, in iBUG order: counted from the image's left, the subject's right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from safa.head.builtin import surface
from safa.head.builtin.mesh import Mesh, skin_uv
from safa.head.builtin.skin import LIP_BORDER, LIP_LINE, Ring
from safa.head.builtin.surface import MM, Array, Bools
from safa.head.builtin.topology import Ints

NUM_YAWS, SIDE = 79, 39

_BROWS = [(15.0, 41.2), (23.5, 43.2), (32.0, 44.2), (41.0, 43.3), (50.0, 39.6)]  # from the nose outwards, mm
_RIDGE = [(0.0, 22.0), (0.0, 11.0), (0.0, 0.0), (0.0, -11.5)]
_NOSTRILS = [(-12.0, -23.0), (-6.0, -25.0), (0.0, -26.0), (6.0, -25.0), (12.0, -23.0)]
# Jaw line from the ear (0) to the chin (8) on the subject's right side: row parameter, azimuth in degrees.
_JAW_T = [6.08, 7.08, 8.09, 9.35, 10.66, 11.5, 11.85, 12.0, 12.09]
_JAW_THETA = [86.0, 85.0, 83.0, 80.0, 68.0, 50.0, 31.0, 15.0, 0.0]
# The ends, towards the middle of the face, of the lines on which they slide when the head turns.
_INNER_T = [6.24, 7.08, 7.91, 8.78, 9.59, 10.48, 11.16, 11.47, 11.54]
_INNER_THETA = [36.0, 34.0, 31.0, 27.0, 24.0, 19.0, 12.0, 6.0, 0.0]
_SLIDES = 80


@dataclass(frozen=True)
class Embedding:
    """Points on faces: face numbers (...) and barycentric weights (..., 3)."""

    faces: Ints
    bary: Array


def _at_vertices(mesh: Mesh, vertices: Ints) -> Embedding:
    """Landmarks that are vertices."""
    faces = np.array([np.flatnonzero((mesh.faces == vertex).any(1))[0] for vertex in vertices])
    return Embedding(faces, (mesh.faces[faces] == vertices[:, None]).astype(float))  # (L, 3) == (L, 1)


class _FrontView:
    """Finds the foremost skin face at a front-view position."""

    def __init__(self, mesh: Mesh) -> None:
        skin = np.zeros(len(mesh.vertices), dtype=bool)
        skin[mesh.parts["skin"]] = True
        corners = mesh.vertices[mesh.faces]
        a, b, c = (corners[:, i, :2] for i in range(3))
        area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
        self._front = np.flatnonzero((area > 1e-10) & skin[mesh.faces].all(1) & (corners[..., 2].mean(1) > 0))
        self._corners = corners[self._front]
        self._area = area[self._front]

    def find(self, x: float, y: float) -> tuple[int, Array]:
        """Face and weights at (x, y), metres."""
        point = np.array([x, y])
        a, b, c = (self._corners[:, i, :2] - point for i in range(3))
        cross = [p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0] for p, q in ((b, c), (c, a), (a, b))]
        bary = np.stack(cross, axis=1) / self._area[:, None]  # three of (F,) -> (F, 3)
        inside: Bools = np.all(bary > -1e-6, axis=1)
        depth = np.where(inside, (bary * self._corners[..., 2]).sum(1), -np.inf)
        best = int(depth.argmax())
        assert inside[best], "no skin at this place"
        weights = np.clip(bary[best], 0, None)
        return int(self._front[best]), weights / weights.sum()


def _lid_points(ring: Ring, edge: int) -> Ints:
    """Corner at image left, two upper, corner at image right, two lower (from the right) of one eye."""
    half, row = ring.half, ring.rings[edge]
    near = round(0.36 * half)
    upper, lower = row[[half - near, near]], row[[2 * half - near, half + near]]
    return np.concatenate([[row[half]], upper, [row[0]], lower])  # (6,)


def _lip_points(mesh: Mesh) -> Ints:
    """Landmarks 48..67: outer border 12, inner line 8, each from image left over the top."""
    ring, half = mesh.mouth, mesh.mouth.half
    border, line = ring.rings[LIP_BORDER + 1], ring.rings[LIP_LINE + 1]
    x = mesh.vertices[:, 0]

    def nearest(row: Ints, columns: Ints, at: list[float]) -> list[int]:
        return [int(row[columns[np.abs(x[row[columns]] / MM - want).argmin()]]) for want in at]

    outer = [line[half], *nearest(border, ring.upper, [-14.5, -5.2, 0, 5.2, 14.5]), line[0]]
    outer += nearest(border, ring.lower, [15.0, 7.5, 0, -7.5, -15.0])
    inner = [line[half - 2], *nearest(line, ring.upper, [-9, 0, 9]), line[2]]
    inner += nearest(line, ring.lower, [9, 0, -9])
    return np.array(outer + inner)


def static_landmarks(mesh: Mesh, lid_edge: int) -> Embedding:
    """Landmarks 17..67 (51): brows, nose, eyes, mouth."""
    front = _FrontView(mesh)
    brows = [(-x, y) for x, y in reversed(_BROWS)] + _BROWS
    placed = [front.find(x * MM, y * MM) for x, y in brows + _RIDGE + _NOSTRILS]
    # (19,), (19, 3)
    faces, bary = np.array([face for face, _ in placed]), np.stack([weights for _, weights in placed])
    # (12,)
    eyes = np.concatenate([_lid_points(mesh.right_eye, lid_edge), _lid_points(mesh.left_eye, lid_edge)])
    rest = _at_vertices(mesh, np.concatenate([eyes, _lip_points(mesh)]))  # (32,)
    return Embedding(np.concatenate([faces, rest.faces]), np.concatenate([bary, rest.bary]))  # (51,), (51, 3)


def contour_landmarks(mesh: Mesh) -> Embedding:
    """Landmarks 0..16 for each yaw: (79, 17).

    Every landmark slides on a line from the jaw's edge towards the middle of the face, to where the line is
    furthest out in the picture: on the side turned away that is the visible outline, on the other the edge of
    the jaw.
    """
    faces, bary, points, outward = _slides(mesh)
    degrees = np.concatenate([np.arange(SIDE + 1), -np.arange(1, SIDE + 1)])  # (79,)
    yaw = np.deg2rad(degrees)[:, None, None]  # (79, 1, 1)
    across = points[..., 0] * np.cos(yaw) + points[..., 2] * np.sin(yaw)  # (79, 17, slides)
    reach = across * outward[:, :1] + points[..., 1] * outward[:, 1:]
    best = _smoothly(reach.argmax(-1), degrees)
    level = np.arange(17)
    return Embedding(faces[level, best], bary[level, best])


def _smoothly(best: Ints, degrees: Ints) -> Ints:
    """Places on the lines (79, 17) without the jumps that flat outlines cause from one yaw to the next."""
    order = np.argsort(degrees)
    smooth = np.empty(best.shape)
    smooth[order] = gaussian_filter1d(best[order].astype(float), sigma=3.0, axis=0, mode="nearest")
    places: Ints = np.rint(smooth).astype(np.int64)
    return places


def _slides(mesh: Mesh) -> tuple[Ints, Array, Array, Array]:
    """Faces (17, S), weights and points (17, S, 3) along the 17 lines, and outward directions (17, 2)."""
    share = np.linspace(0, 1, _SLIDES)
    # (9, 1) * (S,) -> (9, S)
    rows = surface.row_of_t(np.array(_JAW_T)[:, None] * (1 - share) + np.array(_INNER_T)[:, None] * share)
    # (9, S)
    theta = np.deg2rad(np.array(_JAW_THETA)[:, None] * (1 - share) + np.array(_INNER_THETA)[:, None] * share)
    columns = surface.column_of_theta(-theta)  # the subject's right first
    # (9, S) -> (17, S) each
    rows, columns = np.concatenate([rows, rows[7::-1]]), np.concatenate([columns, -columns[7::-1]])
    faces, bary = _on_grid(mesh, rows, columns)
    # (17, S, 3 corners, 3) * (17, S, 3, 1) -> (17, S, 3)
    points = (mesh.vertices[mesh.faces[faces]] * bary[..., None]).sum(-2)
    rest = points[:, 0]
    along = np.gradient(rest[:, :2], axis=0)
    outward = np.stack([along[:, 1], -along[:, 0]], axis=1)  # (17, 2)
    return faces, bary, points, outward / np.linalg.norm(outward, axis=1, keepdims=True)


def _on_grid(mesh: Mesh, rows: Array, columns: Array) -> tuple[Ints, Array]:
    """Faces (L, S) and weights (L, S, 3) of places on the texture, where grid positions are straight."""
    corners = mesh.uv[mesh.uv_faces]  # (F, 3, 2)
    low, high = corners.min(1), corners.max(1)
    faces, weights = [], []
    for line in skin_uv(rows, columns):  # (S, 2)
        near = np.flatnonzero((low <= line.max(0)).all(1) & (high >= line.min(0)).all(1))
        a, b, c = (corners[near, i] - line[:, None] for i in range(3))  # (S, N, 2)
        cross = np.stack(  # (S, N, 3)
            [p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0] for p, q in ((b, c), (c, a), (a, b))], -1
        )
        bary = cross / cross.sum(-1, keepdims=True)
        best = bary.min(-1).argmax(-1)  # inside is where all three are positive
        clipped = np.clip(bary[np.arange(len(line)), best], 0, None)
        faces.append(near[best])
        weights.append(clipped / clipped.sum(-1, keepdims=True))
    return np.stack(faces), np.stack(weights)  # (L, S), (L, S, 3)
