"""The skin: grid, eyelids, lips and the pocket of the mouth, as one connected mesh.

Rings and their order are what later parts rely on: they are named in ``Ring``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from safa.head.builtin import surface
from safa.head.builtin.surface import EYE, LID_HALF_WIDTH, MM, MOUTH_HALF_WIDTH, MOUTH_Y, Array, Bools
from safa.head.builtin.topology import NUM_GRID, Block, Ints, grid_vertex

LEFT_EYE = Block(top=23, bottom=31, left=4, right=17)
RIGHT_EYE = Block(top=23, bottom=31, left=-17, right=-4)
MOUTH = Block(top=45, bottom=51, left=-13, right=13)

# Eye rings between the rim of the block (1) and the edge of the lid (0), then two behind that edge.
EYE_RINGS = (0.66, 0.42, 0.26, 0.16, 0.07, 0.0)
CREASE = 3  # the ring of the fold over the lid
BEHIND_LID = ((0.86, 0.7), (0.6, 4.0))  # width, and depth (mm) below the eyeball's surface, of each
# Mouth rings from the rim (2) to the border of the lips (1), on to the line where the lips meet (0).
MOUTH_RINGS = (1.66, 1.33, 1.12, 1.0, 0.8, 0.5, 0.2, 0.0)
LIP_BORDER, LIP_LINE = 3, 7
POCKET = ((1.0, -3.5, 0.3), (1.0, -10.0, 6.0), (0.9, -26.0, 13.0), (0.45, -44.0, 8.0))


@dataclass(frozen=True)
class Ring:
    """Closed rings (R, N) of vertex numbers round one opening, the rim first; the +x corner is column 0.

    Attributes:
        half: column of the -x corner; columns 1..half-1 are the upper side, the rest the lower.
    """

    rings: Ints
    half: int

    @property
    def upper(self) -> Ints:
        return np.arange(1, self.half)

    @property
    def lower(self) -> Ints:
        return np.arange(self.half + 1, self.rings.shape[1])


@dataclass(frozen=True)
class Skin:
    """The skin's vertices (N, 3) in metres, its plain shape, and where its openings are.

    Attributes:
        rest: (N, 3) the shape.
        rows, columns: (N,) position on the grid, fractional on rings; for texture coordinates.
        left_eye, right_eye, mouth: rings; those of the mouth go on into its pocket.
        pocket_end: vertex that closes the pocket.
    """

    rest: Array
    rows: Array
    columns: Array
    left_eye: Ring
    right_eye: Ring
    mouth: Ring
    pocket_end: int


def _rim_angle(block: Block) -> Array:
    """Angle of each rim vertex round the opening: 0 on the +x side, pi on the other, up to 2 pi."""
    count = 2 * block.half
    return np.arange(count) * np.pi / block.half


def _lid_edge(side: float, angle: Array) -> Array:
    """Outline (N, 2) of the eyelids of one eye (side +1 left), mm."""
    across = np.cos(angle)
    upper = np.sin(angle) > 0
    height = surface.lid_offset(side * across, upper)
    return np.stack([side * EYE[0] + LID_HALF_WIDTH * across, EYE[1] + height], axis=1)  # (N, 2)


def lip_border(across: Array, upper: Bools) -> Array:
    """Height of the lips' border over the line between them, mm; ``across`` is -1..1 between the corners."""
    round_off = np.clip(1 - across**2, 0, None)
    peaks = 1.6 * np.exp(-0.5 * ((np.abs(across) - 0.2) / 0.11) ** 2)
    bow = peaks - 0.4 * np.exp(-0.5 * (across / 0.08) ** 2)
    return np.where(upper, 6.0 * round_off + bow, -8.2 * np.clip(1 - np.abs(across) ** 3.0, 0, None))


def lip_line(across: Array) -> Array:
    """y of the line between the lips, mm: a flat bow with a drop in the middle."""
    return (
        MOUTH_Y
        - 0.9 * np.exp(-0.5 * (across / 0.16) ** 2)
        + 0.7 * np.exp(-0.5 * ((np.abs(across) - 0.45) / 0.2) ** 2)
    )


def _mouth_outlines(angle: Array) -> tuple[Array, Array]:
    """Border of the lips and the line between them, (N, 2) each, mm."""
    across, upper = np.cos(angle), np.sin(angle) > 0
    corner = np.isclose(np.abs(across), 1)
    line = lip_line(across)
    border = line + np.where(corner, 0, lip_border(across, upper))
    x = MOUTH_HALF_WIDTH * across
    return np.stack([1.09 * x, border], axis=1), np.stack([x, line], axis=1)  # (N, 2), (N, 2)


def _grid() -> tuple[Array, Array, Array]:
    """Rows, columns (N,) and points (N, 3) of the grid."""
    row, column = np.meshgrid(
        np.arange(1, surface.NUM_ROWS), np.arange(-surface.HALF_COLUMNS, surface.HALF_COLUMNS), indexing="ij"
    )
    rows = np.concatenate([[0], row.ravel()]).astype(float)  # (N,)
    columns = np.concatenate([[0], column.ravel()]).astype(float)  # (N,)
    return rows, columns, surface.surface(surface.t_of_row(rows), surface.theta_of_column(columns))


def _on_base(xy_mm: Array) -> tuple[Array, Array, Array]:
    """Rows, columns and points of the plain head at front positions (N, 2)."""
    t, theta = surface.invert_front(xy_mm[:, 0] * MM, xy_mm[:, 1] * MM)
    return surface.row_of_t(t), surface.column_of_theta(theta), surface.surface(t, theta)


def _eye_rings(rim_xy: Array, side: float, block: Block) -> Array:
    edge = _lid_edge(side, _rim_angle(block))
    # six of (N, 2) -> (6*N, 2)
    return np.concatenate([edge + share * (rim_xy - edge) for share in EYE_RINGS])


def _mouth_rings(rim_xy: Array) -> Array:
    border, line = _mouth_outlines(_rim_angle(MOUTH))
    rings = [
        line + share * (border - line) if share <= 1 else border + (share - 1) * (rim_xy - border)
        for share in MOUTH_RINGS
    ]
    return np.concatenate(rings)  # R of (N, ...) -> (R*N, ...)


def _shape_lips(points: Array) -> Array:
    """Round the lips: points (R, N, 3) of the mouth rings from the rim on."""
    angle = _rim_angle(MOUTH)
    across, upper = np.cos(angle), np.sin(angle) > 0
    fullness = np.clip(1 - across**2, 0, None) ** 0.6
    profile_upper = {1.12: 0.3, 1.0: 1.2, 0.8: 2.4, 0.5: 3.4, 0.2: 3.0, 0.0: 0.6}
    profile_lower = {1.12: -0.2, 1.0: 0.6, 0.8: 2.6, 0.5: 4.2, 0.2: 3.6, 0.0: 0.6}
    shaped = points.copy()
    for ring, share in enumerate(MOUTH_RINGS):
        lift = np.where(upper, profile_upper.get(share, 0.0), profile_lower.get(share, 0.0))
        corner = -1.5 * (1 - fullness) * np.clip(1.66 - share, 0, 1)
        shaped[ring, :, 2] += (lift * fullness + corner) * MM
    return shaped


def behind_lids(edge: Array, side: float) -> Array:
    """The inside of the lids: rings that sink into the eyeball, and fill the corners it does not reach."""
    centre = EYE * [side, 1, 1]
    rings = []
    for width, depth in BEHIND_LID:
        ring = edge.copy()
        ring[:, :2] = centre[:2] * MM + width * (edge[:, :2] - centre[:2] * MM)
        ring[:, 2] = (surface.lid_depth(ring, centre, -depth) - 1.0) * MM
        rings.append(ring)
    return np.concatenate(rings)  # R of (N, ...) -> (R*N, ...)


def _pocket(line: Array, angle: Array) -> Array:
    """Rings from the line between the lips (N, 3) into the mouth, and the point that closes it."""
    upper = np.sin(angle)
    rings = []
    for width, depth, spread in POCKET:
        ring = line.copy()
        ring[:, 0] *= width
        ring[:, 1] += spread * np.sign(upper) * np.abs(upper) ** 0.5 * MM
        ring[:, 2] = ring[:, 2] + depth * MM
        rings.append(ring)
    end = rings[-1].mean(axis=0, keepdims=True)
    return np.concatenate([*rings, end])  # four of (N, 3) and (1, 3) -> (4*N + 1, 3)


def build_skin() -> Skin:
    """The skin of the average head."""
    rows, columns, grid = _grid()
    points = [surface.sculpt(grid, grid[:, :2])]
    ring_rows, ring_columns, numbers = [rows], [columns], NUM_GRID
    rings: list[Ring] = []
    for block in (LEFT_EYE, RIGHT_EYE, MOUTH):
        rim = grid_vertex(*block.rim())
        rim_xy = grid[rim, :2] / MM
        side = np.sign(block.left + block.right)
        xy = _mouth_rings(rim_xy) if block is MOUTH else _eye_rings(rim_xy, side, block)
        row, column, base = _on_base(xy)
        shaped = surface.sculpt(base, base[:, :2])
        count = len(rim)
        if block is MOUTH:
            # (R*N, 3) -> (R, N, 3) and back
            shaped = _shape_lips(shaped.reshape(-1, count, 3)).reshape(-1, 3)
            inner = _pocket(shaped[-count:], _rim_angle(block))
        else:
            # (R*N, 3) -> (R, N, 3) and back
            shaped = _shape_lids(shaped.reshape(-1, count, 3), side).reshape(-1, 3)
            inner = behind_lids(shaped[-count:], side)
        points += [shaped, inner]
        ring_rows += [row, np.zeros(len(inner))]
        ring_columns += [column, np.zeros(len(inner))]
        total = (len(shaped) + len(inner)) // count
        own = np.arange(numbers, numbers + total * count).reshape(total, count)  # (R, N)
        rings.append(Ring(np.concatenate([rim[None], own]), block.half))  # (R + 1, N)
        numbers += len(shaped) + len(inner)
    rest = np.concatenate(points)  # (V, 3)
    for side in (1, -1):
        rest[:NUM_GRID] = surface.clear_of_eyeball(rest[:NUM_GRID], EYE * [side, 1, 1], 1.8)
    left, right, mouth = rings
    return Skin(  # (V,) rows and columns
        rest, np.concatenate(ring_rows), np.concatenate(ring_columns), left, right, mouth, numbers - 1
    )


def _shape_lids(points: Array, side: float) -> Array:
    """Lay the rings (R, N, 3) of an eye over its eyeball."""
    centre = EYE * [side, 1, 1]
    shaped = points.copy()
    clearances = [1.8, 1.8, 1.8, 1.2, 1.3, 1.0]
    turn = np.sin(np.arange(points.shape[1]) * 2 * np.pi / points.shape[1])
    fold = np.where(turn > 0, 1.0, 0.4) * np.sqrt(np.abs(turn))
    for ring, clearance in enumerate(clearances):
        here = shaped[ring]
        if ring == CREASE:
            here[:, 2] -= fold * MM
        shaped[ring] = surface.clear_of_eyeball(here, centre, clearance)
    shaped[-1, :, 2] = surface.lid_depth(shaped[-1], centre, clearances[-1]) * MM
    return shaped
