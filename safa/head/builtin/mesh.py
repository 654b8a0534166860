"""All parts of the head in one mesh, with its texture layout.

The texture: the skin above, cut open at the back of the head; eyeballs, ears, mouth and teeth below, each on
its own island.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from safa.head.builtin import surface
from safa.head.builtin.organs import Patch, ear, eyeball, teeth
from safa.head.builtin.skin import LEFT_EYE, LIP_LINE, MOUTH, RIGHT_EYE, Ring, Skin, build_skin
from safa.head.builtin.surface import Array
from safa.head.builtin.topology import Ints, fan_faces, grid_cells, grid_faces, grid_vertex, ring_faces

SKIN_BOTTOM = 0.2  # of the texture's height; the other parts lie below
# Left, bottom, width and height of each part's island.
ISLANDS = {
    "eye_left": (0.17, 0.01, 0.16, 0.16),
    "eye_right": (0.005, 0.01, 0.16, 0.16),
    "ear_left": (0.505, 0.01, 0.16, 0.16),
    "ear_right": (0.34, 0.01, 0.16, 0.16),
    "mouth": (0.67, 0.01, 0.16, 0.16),
    "teeth_upper": (0.84, 0.1, 0.15, 0.07),
    "teeth_lower": (0.84, 0.01, 0.15, 0.07),
}
LID_RINGS_BEHIND = 2


@dataclass(frozen=True)
class Mesh:
    """The average head.

    Attributes:
        vertices: (V, 3), metres.
        faces: (F, 3), counter-clockwise seen from outside.
        uv: (T, 2) in [0, 1], origin at the lower left.
        uv_faces: (F, 3).
        parts: vertex numbers of each part: skin, then the names of ``ISLANDS`` but for the mouth.
        left_eye, right_eye, mouth: rings of the skin round its openings.
        pocket_end: vertex at the end of the pocket behind the lips.
        level: (V,), degrees from the pupil on eyeballs.
    """

    vertices: Array
    faces: Ints
    uv: Array
    uv_faces: Ints
    parts: dict[str, Ints]
    left_eye: Ring
    right_eye: Ring
    mouth: Ring
    pocket_end: int
    level: Array

    def mask(self, part: str) -> Array:
        """(V,) 1 on one part."""
        mask = np.zeros(len(self.vertices))
        mask[self.parts[part]] = 1
        return mask


def skin_uv(rows: Array | Ints, columns: Array | Ints) -> Array:
    """Texture position (N, 2) of grid positions; columns left to right."""
    u = 0.5 + 0.5 * columns / surface.HALF_COLUMNS * 0.998
    return np.stack([u, 1 - (1 - SKIN_BOTTOM) * rows / (surface.NUM_ROWS - 1) - 0.001], axis=-1)  # (N, 2)


def _skin_faces(skin: Skin) -> tuple[Ints, Array, Ints]:
    """Faces (F, 3), texture positions (T, 2) and texture faces (F, 3) of the skin."""
    corners = grid_faces(grid_cells([LEFT_EYE, RIGHT_EYE, MOUTH]))
    row, column = corners[..., 0], corners[..., 1]
    faces = [grid_vertex(row, column)]
    width = surface.NUM_COLUMNS + 1
    uv_faces = [row * width + column + surface.HALF_COLUMNS]
    every_row, every_column = np.meshgrid(
        np.arange(surface.NUM_ROWS), np.arange(-surface.HALF_COLUMNS, surface.HALF_COLUMNS + 1), indexing="ij"
    )
    uv = [skin_uv(every_row.ravel(), every_column.ravel())]
    count = len(uv[0])
    for block, opening in ((LEFT_EYE, skin.left_eye), (RIGHT_EYE, skin.right_eye), (MOUTH, skin.mouth)):
        rings = opening.rings
        in_front = rings[: LIP_LINE + 2] if block is MOUTH else rings
        rim_row, rim_column = block.rim()
        own = skin_uv(skin.rows[in_front[1:]], skin.columns[in_front[1:]])
        if block is not MOUTH:
            edge = own[-LID_RINGS_BEHIND - 1]
            for ring, share in ((-2, 0.8), (-1, 0.5)):
                own[ring] = edge.mean(0) + share * (edge - edge.mean(0))
        # own is (R, N, 2) -> (R, N)
        numbers = np.arange(count, count + own[..., 0].size).reshape(own.shape[:2])
        rim = (rim_row * width + rim_column + surface.HALF_COLUMNS)[None]  # (N,) -> (1, N)
        faces.append(ring_faces(in_front, opening.half))
        uv_faces.append(ring_faces(np.concatenate([rim, numbers]), opening.half))  # (R + 1, N)
        uv.append(own.reshape(-1, 2))  # (R, N, 2) -> (R*N, 2)
        count += own[..., 0].size
    return np.concatenate(faces), np.concatenate(uv), np.concatenate(uv_faces)  # (F, 3), (T, 2), (F, 3)


def _pocket_faces(skin: Skin) -> tuple[Ints, Array, Ints]:
    """Faces, texture positions and texture faces of the pocket behind the lips, on an island [0, 1]^2."""
    rings = skin.mouth.rings[LIP_LINE + 1 :]
    count, around = rings.shape
    angle = np.arange(around) * 2 * np.pi / around
    radius = np.linspace(1, 0.15, count)[:, None]  # (R, 1)
    # two of (R, N) -> (R, N, 2) -> (R*N, 2)
    uv = 0.5 + 0.5 * np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1, 2)
    uv = np.concatenate([uv, [[0.5, 0.5]]])  # (R*N + 1, 2)
    numbers = np.arange(count * around).reshape(count, around)  # (R, N)
    # (F, 3)
    faces = np.concatenate([ring_faces(rings, skin.mouth.half), fan_faces(rings[-1], skin.pocket_end)])
    # (F, 3)
    uv_faces = np.concatenate([ring_faces(numbers, skin.mouth.half), fan_faces(numbers[-1], count * around)])
    return faces, uv, uv_faces


def _on_island(name: str, uv: Array) -> Array:
    left, bottom, width, height = ISLANDS[name]
    return np.array([left, bottom]) + uv * [width, height]


def _drop_unused(mesh: Mesh) -> Mesh:
    """Leave out grid vertices inside the openings, which no face uses."""
    used = np.unique(mesh.faces)
    number = np.full(len(mesh.vertices), -1)
    number[used] = np.arange(len(used))
    used_uv = np.unique(mesh.uv_faces)
    uv_number = np.full(len(mesh.uv), -1)
    uv_number[used_uv] = np.arange(len(used_uv))

    def renumber(ring: Ring) -> Ring:
        return Ring(number[ring.rings], ring.half)

    return Mesh(
        mesh.vertices[used],
        number[mesh.faces],
        mesh.uv[used_uv],
        uv_number[mesh.uv_faces],
        {name: number[part][number[part] >= 0] for name, part in mesh.parts.items()},
        renumber(mesh.left_eye),
        renumber(mesh.right_eye),
        renumber(mesh.mouth),
        int(number[mesh.pocket_end]),
        mesh.level[used],
    )


def build_mesh() -> Mesh:
    """The average head: about 5,900 vertices."""
    skin = build_skin()
    faces, uv, uv_faces = _skin_faces(skin)
    pocket, pocket_uv, pocket_uv_faces = _pocket_faces(skin)
    vertices, all_faces, level = [skin.rest], [faces, pocket], [np.zeros(len(skin.rest))]
    all_uv = [uv, _on_island("mouth", pocket_uv)]
    all_uv_faces = [uv_faces, pocket_uv_faces + len(uv)]
    parts = {"skin": np.arange(len(skin.rest))}
    count, uv_count = len(skin.rest), len(uv) + len(pocket_uv)
    patches: dict[str, Patch] = {
        "eye_left": eyeball(1),
        "eye_right": eyeball(-1),
        "ear_left": ear(1),
        "ear_right": ear(-1),
        "teeth_upper": teeth(upper=True),
        "teeth_lower": teeth(upper=False),
    }
    for name, patch in patches.items():
        parts[name] = np.arange(count, count + len(patch.vertices))
        vertices.append(patch.vertices)
        level.append(patch.level)
        all_faces.append(patch.faces + count)
        all_uv.append(_on_island(name, patch.uv))
        all_uv_faces.append(patch.faces + uv_count)
        count, uv_count = count + len(patch.vertices), uv_count + len(patch.uv)
    mesh = Mesh(
        np.concatenate(vertices),  # (V, 3)
        np.concatenate(all_faces),  # (F, 3)
        np.concatenate(all_uv),  # (T, 2)
        np.concatenate(all_uv_faces),  # (F, 3)
        parts,
        skin.left_eye,
        skin.right_eye,
        skin.mouth,
        skin.pocket_end,
        np.concatenate(level),  # (V,)
    )
    return _drop_unused(mesh)
