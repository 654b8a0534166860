"""Which vertices the head has, what they belong to, and the faces between them.

The skin is a grid: rows from crown to neck, columns round the head. Three blocks of cells are cut out.
Rings of vertices run from the rim of each block to the edge of an eyelid, or to the line between the lips,
and on inwards: the loops a modeller would draw. Eyeballs, ears and teeth are meshes of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safa.head.builtin.surface import HALF_COLUMNS, NUM_COLUMNS, NUM_ROWS

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Block:
    """Grid cells cut out of the skin: rows top..bottom, columns left..right (columns are signed)."""

    top: int
    bottom: int
    left: int
    right: int

    def rim(self) -> tuple[Ints, Ints]:
        """Rows and columns of the rim's vertices, from the middle of the +x side over the top, once round."""
        middle = (self.top + self.bottom) // 2
        up = [(row, self.right) for row in range(middle, self.top, -1)]
        over = [(self.top, column) for column in range(self.right, self.left, -1)]
        down = [(row, self.left) for row in range(self.top, self.bottom)]
        back = [(self.bottom, column) for column in range(self.left, self.right)]
        rise = [(row, self.right) for row in range(self.bottom, middle, -1)]
        rows, columns = zip(*(up + over + down + back + rise), strict=True)
        return np.array(rows), np.array(columns)

    @property
    def half(self) -> int:
        """Vertices of the rim from the +x side to the -x side, over the top (the two ends differ by this)."""
        return (self.bottom - self.top) + (self.right - self.left)


def grid_vertex(row: Ints, column: Ints) -> Ints:
    """Index of a grid vertex; row 0 is the single vertex of the crown. Columns wrap round."""
    index = 1 + (row - 1) * NUM_COLUMNS + (column + HALF_COLUMNS) % NUM_COLUMNS
    numbers: Ints = np.where(row == 0, 0, index)
    return numbers


NUM_GRID = 1 + (NUM_ROWS - 1) * NUM_COLUMNS


def grid_cells(blocks: list[Block]) -> Ints:
    """Cells (Q, 2) of the grid outside the blocks: row and column of their upper left corners."""
    row, column = np.meshgrid(np.arange(NUM_ROWS - 1), np.arange(-HALF_COLUMNS, HALF_COLUMNS), indexing="ij")
    keep = np.ones(row.shape, dtype=bool)
    for block in blocks:
        inside = (row >= block.top) & (row < block.bottom)
        keep &= ~(inside & (column >= block.left) & (column < block.right))
    return np.stack([row[keep], column[keep]], axis=1)  # (Q, 2)


def grid_faces(cells: Ints) -> Ints:
    """Triangles of grid cells, (N, 3, 2) as (row, column) corners, counter-clockwise seen from outside."""
    row, column = cells[:, 0], cells[:, 1]
    corner = [  # four of (Q, 2)
        np.stack([row + down, column + across], axis=1) for down, across in ((0, 0), (1, 0), (1, 1), (0, 1))
    ]
    # The diagonals mirror each other left and right of the middle.
    left = (column < 0)[:, None, None]  # (Q, 1, 1)
    first = np.where(  # (Q, 3, 2)
        left, np.stack([corner[0], corner[1], corner[2]], 1), np.stack([corner[0], corner[1], corner[3]], 1)
    )
    second = np.where(  # (Q, 3, 2)
        left, np.stack([corner[0], corner[2], corner[3]], 1), np.stack([corner[3], corner[1], corner[2]], 1)
    )
    # The first row touches the single crown vertex: one of its triangles would be flat.
    faces: Ints = np.concatenate([first, second])  # (2*Q, 3, 2)
    crown = (faces[..., 0] == 0).sum(1)
    kept: Ints = faces[crown < 2]
    return kept


def ring_faces(rings: Ints, corner: int = 0) -> Ints:
    """Triangles between closed rings (R, N) of vertex numbers, each ring inside the one before it.

    With rings that run counter-clockwise seen from outside the surface, the faces do too.

    Args:
        corner: column of a second corner opposite column 0. All diagonals then lead away from the two
            corners, where the rings of an eye or a mouth are too flat for any other.
    """
    count = rings.shape[1]
    outer, inner = rings[:-1], rings[1:]
    outer_next, inner_next = np.roll(outer, -1, axis=1), np.roll(inner, -1, axis=1)
    column = np.arange(count)
    leaves = (column < corner / 2) | ((column >= corner) & (column < (corner + count) / 2) & (corner > 0))
    first = np.stack([outer, outer_next, np.where(leaves, inner, inner_next)], axis=-1)  # (R-1, N, 3)
    second = np.stack([np.where(leaves, outer_next, outer), inner_next, inner], axis=-1)  # (R-1, N, 3)
    # two of (R-1, N or N-1, 3) -> (faces, 3)
    return np.concatenate([first.reshape(-1, 3), second.reshape(-1, 3)])


def fan_faces(ring: Ints, centre: int) -> Ints:
    """Triangles that close a ring (N,) with a vertex in its middle."""
    return np.stack([ring, np.roll(ring, -1), np.full_like(ring, centre)], axis=-1)  # (N, 3)


def strip_faces(rows: Ints) -> Ints:
    """Triangles of an open patch (R, N) of vertex numbers; from outside, rows go down and columns right."""
    a, b, c, d = rows[:-1, :-1], rows[1:, :-1], rows[1:, 1:], rows[:-1, 1:]
    first, second = np.stack([a, b, c], axis=-1), np.stack([a, c, d], axis=-1)  # (R-1, N-1, 3) each
    # two of (R-1, N or N-1, 3) -> (faces, 3)
    return np.concatenate([first.reshape(-1, 3), second.reshape(-1, 3)])
