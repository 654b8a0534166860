"""How fast the native rasteriser is: milliseconds, and how many times faster than a loop over faces.

    python benchmarks/raster.py [--head flame.npz] [--threads 2]

Everything is measured in one process. Without ``--head`` the mesh is an ellipsoid with as many faces as
FLAME (9,976); a file made by ``safa assets convert`` gives the real one. PyTorch3D is measured beside it
where it is installed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from safa.head.assets import HeadAssets
from safa.head.raster import Fragments, rasterize, rasterize_pytorch3d

RINGS, SEGMENTS = 60, 86  # 2 * 86 * 58 = 9,976 faces
REPEATS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--head", type=Path, help="a head file (.npz) instead of the ellipsoid")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    vertices, faces = _from_head(arguments.head) if arguments.head else _ellipsoid()
    print(f"{len(faces)} faces, {arguments.threads} threads, median of {REPEATS}")
    one, eight = vertices[None], vertices.expand(8, -1, -1).contiguous()

    native = _report("native, 256 px, batch 1", lambda: rasterize(one, faces, 256))
    _report("native, 256 px, batch 1, with gradients", _with_gradients(one, faces, 256))
    _report("native, 256 px, batch 8", lambda: rasterize(eight, faces, 256))
    _report("native, 64 px, batch 8", lambda: rasterize(eight, faces, 64))
    _report("native, 64 px, batch 8, with gradients", _with_gradients(eight, faces, 64))

    start = time.perf_counter()
    face_index = _loop_over_faces(one[0], faces, 256)
    loop = 1000 * (time.perf_counter() - start)
    agree = torch.equal(face_index, rasterize(one, faces, 256).face_index[0])
    print(f"{'loop over faces, 256 px, batch 1':44}{loop:9.1f} ms")
    print(f"native is {loop / native:.0f} times as fast as the loop; same faces: {agree}")
    if find_spec("pytorch3d") is None:
        print("PyTorch3D is not installed, so it is not measured")
        return
    theirs = _report("PyTorch3D, 256 px, batch 1", lambda: rasterize_pytorch3d(one, faces, 256))
    print(f"native is {theirs / native:.1f} times as fast as PyTorch3D")


def _report(name: str, run: Callable[[], object]) -> float:
    """Print median and best; return the median, in milliseconds. Two runs warm up."""
    run(), run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    median = statistics.median(times)
    print(f"{name:44}{median:9.1f} ms   best {min(times):.1f}")
    return median


def _with_gradients(vertices: Tensor, faces: Tensor, size: int) -> Callable[[], object]:
    leaf = vertices.clone().requires_grad_()

    def run() -> Fragments:
        fragments = rasterize(leaf, faces, size)
        torch.autograd.backward(fragments.bary.sum())
        return fragments

    return run


def _loop_over_faces(vertices: Tensor, faces: Tensor, size: int) -> Tensor:
    """The plain way: each face against the pixels of its bounding box, one face after the other."""
    face_index = torch.full((size, size), -1)
    zbuf = torch.full((size, size), torch.inf)
    centre = (2 * torch.arange(size) + 1) / size - 1
    for index, ((x0, y0, z0), (x1, y1, z1), (x2, y2, z2)) in enumerate(vertices[faces].tolist()):
        columns = _covered(min(x0, x1, x2), max(x0, x1, x2), size)
        rows = _covered(min(y0, y1, y2), max(y0, y1, y2), size)
        corners = torch.tensor([[x0, x1, x2], [y0, y1, y2], [z0, z1, z2]])
        x, y, z = corners
        area = (x[2] - x[0]) * (y[1] - y[0]) - (y[2] - y[0]) * (x[1] - x[0])
        px, py = centre[None, columns], centre[rows, None]
        bary = [
            ((px - x[a]) * (y[b] - y[a]) - (py - y[a]) * (x[b] - x[a])) / (area + 1e-8)
            for a, b in ((1, 2), (2, 0), (0, 1))
        ]
        depth = bary[0] * z[0] + bary[1] * z[1] + bary[2] * z[2]
        nearer = (bary[0] > 0) & (bary[1] > 0) & (bary[2] > 0) & (depth < zbuf[rows, columns])
        zbuf[rows, columns] = torch.where(nearer, depth, zbuf[rows, columns])
        face_index[rows, columns] = torch.where(nearer, index, face_index[rows, columns])
    return face_index


def _covered(low: float, high: float, size: int) -> slice:
    first = math.floor(((low + 1) * size - 1) / 2)
    last = math.ceil(((high + 1) * size - 1) / 2)
    return slice(max(first, 0), max(last + 1, 0))


def _from_head(path: Path) -> tuple[Tensor, Tensor]:
    """The template as the default camera sees it, behind the screen."""
    head = HeadAssets.load(path)
    return head.v_template * torch.tensor([10.0, -10, -10]) + torch.tensor([0, 0, 10.0]), head.faces


def _ellipsoid() -> tuple[Tensor, Tensor]:
    """About as large on the screen as a head; poles up and down."""
    polar, around = torch.linspace(0, math.pi, RINGS), torch.arange(SEGMENTS) / SEGMENTS * 2 * math.pi
    ring = polar.sin()[:, None] * torch.stack([around.cos(), around.sin()])[:, None]  # (2, RINGS, SEGMENTS)
    height = polar.cos()[:, None].expand(RINGS, SEGMENTS)
    vertices = torch.stack([0.62 * ring[0], 0.85 * height, 10 + 0.7 * ring[1]], -1).reshape(-1, 3)
    at = torch.arange(RINGS * SEGMENTS).reshape(RINGS, SEGMENTS)
    after = at.roll(-1, 1)
    below = torch.stack([at[:-2], at[1:-1], after[1:-1]], -1).reshape(-1, 3)
    above = torch.stack([at[1:-1], after[2:], after[1:-1]], -1).reshape(-1, 3)
    return vertices, torch.cat([below, above])


if __name__ == "__main__":
    main()
