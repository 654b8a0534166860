"""Rasteriser: which face is nearest at each pixel, and where on that face the pixel lies.

The rules are those of PyTorch3D's ``rasterize_meshes`` with blur 0, one face per pixel and no perspective
correction:

* screen x right, y down, z away from the viewer; pixel (i, j) has its centre at
  ``((2j+1)/S - 1, (2i+1)/S - 1)``;
* ``bary_k = edge_k / (area + 1e-8)``; a pixel is inside when all three are > 0, whichever way the face turns;
* z is interpolated with these weights, which do not sum exactly to 1; the smallest z wins, on equal z the
  smaller face index;
* a face with any vertex at z < 0 is dropped whole; so is one with ``|area| <= 1e-8``.

B meshes, F faces, V vertices, S pixels a side, P pixels that hit something.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol, get_args

import torch
from torch import Tensor

from safa.config.model import RasterizerName
from safa.errors import UserError

AREA_EPSILON = 1e-8  # screen units squared; a face of less covers nothing
NOTHING = 2**63 - 1  # key of a pixel no face has reached: greater than every (depth, face)
FACE_BITS = 32  # low bits of the key; the depth's 32 stand above them
SLACK = 1 / 64  # px around a row's span; rounding may move an edge by much less
FLAT = 1e-4  # height below which an edge's crossing with a row is too ill-conditioned to be computed
# Candidate pixels worked on at once: few enough for the cache on a CPU, enough to fill a GPU.
CHUNK_CPU, CHUNK_GPU = 2**18, 2**22


@dataclass(frozen=True)
class Fragments:
    """What each pixel sees. Missed pixels hold -1 everywhere.

    Attributes:
        face_index: (B, S, S) int64, face of the pixel's own mesh.
        zbuf: (B, S, S), interpolated z.
        bary: (B, S, S, 3), weights of the face's corners; carries gradients to the vertices.
    """

    face_index: Tensor
    zbuf: Tensor
    bary: Tensor

    @property
    def hit(self) -> Tensor:
        """(B, S, S) bool: something is there."""
        return self.face_index >= 0


class Rasterizer(Protocol):
    """One way of filling ``Fragments``."""

    def __call__(self, vertices: Tensor, faces: Tensor, size: int) -> Fragments:
        """Rasterise meshes that share their faces.

        Args:
            vertices: (B, V, 3) on the screen.
            faces: (F, 3) int64.
            size: S.
        """


def available_rasterizer(asked: str, trained_with: RasterizerName) -> RasterizerName:
    """Return the name of the rasteriser that a trained model runs with on this machine.

    Args:
        asked: ``native``, ``pytorch3d``, or ``auto``: the one of its training, and native where that is not
            installed.

    Raises:
        UserError: there is no such rasteriser, or PyTorch3D is asked for and not installed.
    """
    if asked == "auto":
        return "native" if find_spec("pytorch3d") is None else trained_with
    names: tuple[RasterizerName, ...] = get_args(RasterizerName)
    name = next((each for each in names if each == asked), None)
    if name is None:
        raise UserError(f"there is no {asked!r}", "rasterizer", f"Use one of {', '.join(('auto', *names))}.")
    make_rasterizer(name)
    return name


def make_rasterizer(name: str) -> Rasterizer:
    """``native`` or ``pytorch3d``.

    Raises:
        UserError: PyTorch3D is asked for and not installed.
    """
    if name == "native":
        return rasterize
    if name != "pytorch3d":
        raise ValueError(f"no rasteriser named {name!r}: native or pytorch3d")
    if find_spec("pytorch3d") is None:
        raise UserError("PyTorch3D is not installed", "rasterizer", "Choose native, which needs nothing.")
    return rasterize_pytorch3d


def interpolate(fragments: Fragments, face_attributes: Tensor) -> Tensor:
    """Draw what the corners of each face carry: (B, D, S, S), 0 where nothing is hit.

    Args:
        face_attributes: (B or 1, F, 3, D), a value for each corner of each face.
    """
    pixels, mesh, face = _hits(fragments.face_index)
    if len(face_attributes) == 1:
        mesh = torch.zeros_like(mesh)
    return _blend(fragments, pixels, face_attributes[mesh, face])


def interpolate_vertices(fragments: Fragments, vertex_attributes: Tensor, faces: Tensor) -> Tensor:
    """Do what ``interpolate`` does, for values that faces share at their vertices.

    The same as ``interpolate(fragments, vertex_attributes[:, faces])`` without that large tensor.

    Args:
        vertex_attributes: (B, V, D).
        faces: (F, 3).
    """
    pixels, mesh, face = _hits(fragments.face_index)
    corners = (mesh * vertex_attributes.shape[1])[:, None] + faces[face]  # (P, 1) + (P, 3) -> (P, 3)
    values = vertex_attributes.flatten(0, 1).index_select(0, corners.flatten())  # (B*V, D) -> (P*3, D)
    return _blend(
        fragments, pixels, values.reshape(len(pixels), 3, values.shape[-1])
    )  # (P*3, D) -> (P, 3, D)


def _hits(face_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flat index, mesh and face of the P pixels that hit something, (P,) each."""
    flat = face_index.flatten()  # (B, S, S) -> (B*S*S,)
    pixels = (flat >= 0).nonzero().squeeze(1)  # (P, 1) -> (P,)
    return pixels, pixels // face_index[0].numel(), flat[pixels]


def _blend(fragments: Fragments, pixels: Tensor, values: Tensor) -> Tensor:
    """Weigh corner values with the barycentric weights and lay them out as a picture (B, D, S, S)."""
    weights = fragments.bary.reshape(-1, 3).index_select(0, pixels)  # (B, S, S, 3) -> (B*S*S, 3) -> (P, 3)
    blended = (values * weights.unsqueeze(-1)).sum(1)  # (P, 3, D) * (P, 3, 1) -> (P, D)
    picture = blended.new_zeros(fragments.face_index.numel(), blended.shape[1]).index_copy(0, pixels, blended)
    return picture.reshape(*fragments.face_index.shape, -1).movedim(-1, 1)  # (B*S*S, D) -> (B, D, S, S)


# ---- native ------------------------------------------------------------------------------------------------


def rasterize(vertices: Tensor, faces: Tensor, size: int) -> Fragments:
    """The native ``Rasterizer``: vectorised torch on any device.

    Depth is compared in float32 whatever the dtype of ``vertices``. Gradients flow from ``bary`` and ``zbuf``
    to the vertices; which face a pixel sees has none.
    """
    with torch.no_grad():
        face_index = _nearest_faces(vertices.detach().float(), faces, size)
    pixels, mesh, face = _hits(face_index)
    corners = (mesh * vertices.shape[1])[:, None] + faces[face]  # (P, 3)
    # (B*V, 3) -> (3*P, 3) -> three of (3 corners, P)
    x, y, z = vertices.reshape(-1, 3).index_select(0, corners.T.flatten()).reshape(3, -1, 3).unbind(2)
    px = _pixel_centre(pixels % size, size, vertices.dtype)
    py = _pixel_centre(pixels // size % size, size, vertices.dtype)
    edges = [(px - x[a]) * (y[b] - y[a]) - (py - y[a]) * (x[b] - x[a]) for a, b in ((1, 2), (2, 0), (0, 1))]
    area = _double_area(x, y) + AREA_EPSILON
    bary = torch.stack(edges, dim=1) / area[:, None]  # three of (P,) -> (P, 3)
    depth = bary[:, 0] * z[0] + bary[:, 1] * z[1] + bary[:, 2] * z[2]
    count, shape = face_index.numel(), face_index.shape
    return Fragments(
        face_index,
        vertices.new_full((count,), -1).index_copy(0, pixels, depth).reshape(shape),  # (B*S*S,) -> (B, S, S)
        vertices.new_full((count, 3), -1).index_copy(0, pixels, bary).reshape(*shape, 3),  # (B, S, S, 3)
    )


def _nearest_faces(vertices: Tensor, faces: Tensor, size: int) -> Tensor:
    """Find the nearest face of each pixel: (B, S, S) int64, -1 where nothing is.

    Each face becomes the rows it crosses, each row the pixels between its edges. Every such candidate offers
    the key (depth, face) to its pixel, and the smallest offer stays: depth is not negative, so the bits of
    its float32 order like an integer, and the face index below them settles ties.
    """
    batch = len(vertices)
    corners = _corners_of_all(vertices, faces)  # (9, B*F)
    x, y, z = corners.reshape(3, 3, -1)  # (9, B*F) -> three of (3 corners, B*F)
    rows, num_rows = _span(y.amin(0), y.amax(0), size)
    _, num_columns = _span(x.amin(0), x.amax(0), size)
    seen = (_double_area(x, y).abs() > AREA_EPSILON) & (z.amin(0) >= 0)
    box = torch.where(seen, num_rows * num_columns, 0)  # an upper bound of each face's candidates

    nearest = torch.full((batch * size**2,), NOTHING, device=vertices.device)
    for chosen in _chunks(box, CHUNK_GPU if vertices.is_cuda else CHUNK_CPU):
        owner, row = _expand(rows[chosen], num_rows[chosen])
        chosen = chosen[owner]  # the face of each row
        owner, pixel, depth = _candidates(corners.index_select(1, chosen), row, size)
        mesh, face = chosen // len(faces), chosen % len(faces)
        key = (depth.view(torch.int32).long() << FACE_BITS) | face[owner]  # (N,), the bits of float32
        key = torch.where(depth >= 0, key, NOTHING)
        nearest.scatter_reduce_(0, (mesh * size**2)[owner] + pixel, key, "amin")
    face_index = torch.where(nearest == NOTHING, -1, nearest & (2**FACE_BITS - 1))
    return face_index.reshape(batch, size, size)  # (B*S*S,) -> (B, S, S)


def _corners_of_all(vertices: Tensor, faces: Tensor) -> Tensor:
    """Gather the coordinates (9, B*F) of all faces: x of the three corners, then y, then z."""
    # All meshes in one row: one gather serves the whole batch.
    # (B, V, 3) -> (V, 3, B) -> (V, 3*B) -> (3*F, 3*B)
    rows = vertices.permute(1, 2, 0).flatten(1).index_select(0, faces.T.flatten())
    # (3*F, 3*B) -> (3 corners, F, 3, B) -> (3, 3 corners, B, F) -> (9, B*F)
    return rows.reshape(3, len(faces), 3, len(vertices)).permute(2, 0, 3, 1).reshape(9, -1)


def _candidates(corners: Tensor, row: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """List the pixels that faces may cover, each face on one row.

    Args:
        corners: (9, R), x then y then z of the three corners.
        row: (R,) pixel row.

    Returns:
        owner: (N,) which of the R rows a candidate belongs to.
        pixel: (N,) row * S + column.
        depth: (N,) interpolated z, or -1 where the pixel is outside after all.
    """
    x, y, z = corners.reshape(3, 3, -1)  # (9, R) -> three of (3 corners, R)
    # Edge k runs from corner k+1 to corner k+2, so it faces corner k and carries its weight.
    start_x, start_y = x.roll(-1, 0), y.roll(-1, 0)
    dx, dy = x.roll(-2, 0) - start_x, y.roll(-2, 0) - start_y
    down = _pixel_centre(row, size, x.dtype) - start_y
    column, num_columns = _row_span(start_x, dx, dy, down, size)
    owner, column = _expand(column, num_columns)
    area = _double_area(x, y)[None] + AREA_EPSILON  # (R,) -> (1, R)
    per_row = torch.cat([start_x, dy, down * dx, z, area])  # (13, R)
    # (13, R) -> (13, N) -> four of (3, N) and (1, N)
    start_x, dy, across, z, area = torch.split(per_row.index_select(1, owner), [3, 3, 3, 3, 1])
    bary = ((_pixel_centre(column, size, x.dtype) - start_x) * dy - across) / area
    depth = bary[0] * z[0] + bary[1] * z[1] + bary[2] * z[2]
    inside = (bary > 0).all(0)
    # Adding zero turns -0.0, whose bits would order before everything, into 0.0.
    return owner, row[owner] * size + column, torch.where(inside, depth + 0.0, -1.0)


def _row_span(start_x: Tensor, dx: Tensor, dy: Tensor, down: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """First column and number of columns between a face's edges on a row; edges are (3, R)."""
    along = down / dy  # where the edge crosses the row: 0 at its start, 1 at its end
    flat = dy.abs() < FLAT
    crossed = (along > -FLAT) & (along < 1 + FLAT) & ~flat
    crossing = start_x + along * dx
    nowhere = torch.full_like(crossing, torch.inf)
    low = torch.where(flat, start_x + dx.clamp(max=0), torch.where(crossed, crossing, nowhere))
    high = torch.where(flat, start_x + dx.clamp(min=0), torch.where(crossed, crossing, -nowhere))
    return _span(low.amin(0), high.amax(0), size)


def _span(low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """First and number of pixels whose centres lie between two screen coordinates, give or take a hair."""
    first = torch.ceil(((low + 1) * size - 1) / 2 - SLACK).clamp(0, size).long()
    last = torch.floor(((high + 1) * size - 1) / 2 + SLACK).clamp(-1, size - 1).long()
    return first, (last - first + 1).clamp(min=0)


def _expand(first: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Write out ranges: for range k its ``count[k]`` members ``first[k], first[k] + 1, ...``.

    Returns:
        owner: (N,) which range a member comes from.
        member: (N,) the member.
    """
    end = count.cumsum(0)
    owner = torch.repeat_interleave(count)  # (ranges,) -> (N,)
    return owner, torch.arange(len(owner), device=count.device) - (end - count - first)[owner]


def _chunks(amounts: Tensor, limit: int) -> Iterator[Tensor]:
    """Yield the indices of the amounts above 0, in chunks that add up to about ``limit`` each."""
    chosen = amounts.nonzero().squeeze(1)  # (M, 1) -> (M,)
    run = amounts[chosen].cumsum(0) // limit
    sizes = torch.unique_consecutive(run, return_counts=True)[1]
    yield from torch.split(chosen, sizes.tolist())  # (M,) -> several of (m,)


def _double_area(x: Tensor, y: Tensor) -> Tensor:
    """Twice the signed area of triangles, corners (3, N)."""
    return (x[2] - x[0]) * (y[1] - y[0]) - (y[2] - y[0]) * (x[1] - x[0])


def _pixel_centre(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Screen coordinate of a pixel's centre, in (-1, 1)."""
    return (2 * index + 1).to(dtype) / size - 1


# ---- PyTorch3D ---------------------------------------------------------------------------------------------


def rasterize_pytorch3d(vertices: Tensor, faces: Tensor, size: int) -> Fragments:
    """Compute the same ``Fragments`` by PyTorch3D, whose x and y axes point the other way."""
    from pytorch3d.renderer.mesh import rasterize_meshes
    from pytorch3d.structures import Meshes

    flipped = vertices * vertices.new_tensor([-1, -1, 1])
    packed_index, zbuf, bary, _ = rasterize_meshes(
        Meshes(flipped, faces.expand(len(vertices), -1, -1)),  # (F, 3) -> (B, F, 3)
        image_size=size,
        blur_radius=0.0,
        faces_per_pixel=1,
        perspective_correct=False,
    )
    # PyTorch3D counts the faces of a batch through.
    first = torch.arange(len(vertices), device=faces.device)[:, None, None] * len(faces)  # (B,) -> (B, 1, 1)
    packed_index = packed_index[..., 0]  # (B, S, S, 1) -> (B, S, S)
    return Fragments(torch.where(packed_index < 0, -1, packed_index - first), zbuf[..., 0], bary[..., 0, :])
