"""Maps of numbers as colours: occlusion, flow, normals."""

from __future__ import annotations

import colorsys
import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safa.geometry.grids import identity_grid
from safa.pictures.canvas import Picture, from_tensor

HEAT_COLOURS = "magma"  # black to pale yellow, evenly bright and safe for the colour-blind
HUES = 256


def heat(map_HW: Tensor) -> Picture:
    """Values in [0, 1] from black (0) over red to pale yellow (1); values outside are clipped."""
    if map_HW.ndim != 2:
        raise ValueError(f"one map (H, W) is wanted, not {tuple(map_HW.shape)}")
    levels = (map_HW.detach().float().clamp(0, 1) * 255).round().long().cpu().numpy()
    coloured: Picture = _heat_table()[levels]
    return coloured


def flow(deformation_HW2: Tensor, full: float = 0.3) -> Picture:
    """How far each pixel reads from itself: hue is the direction, saturation the distance, white is at rest.

    Args:
        deformation_HW2: source positions in normalised coordinates, x then y.
        full: the distance, in the same unit (the image is 2 wide), from which on colours are fully saturated.
    """
    height, width = deformation_HW2.shape[:2]
    grid = identity_grid(height, width, dtype=torch.float32, device=torch.device("cpu"))
    shift = (deformation_HW2.detach().float().cpu() - grid).numpy()
    turn = np.arctan2(shift[..., 1], shift[..., 0]) / (2 * math.pi) % 1.0
    hue = _hue_table()[np.minimum((turn * HUES).astype(int), HUES - 1)]
    saturation = np.clip(np.hypot(shift[..., 0], shift[..., 1]) / full, 0, 1)[..., None]
    colours = 1 + saturation * (hue - 1)  # from white to the hue
    coloured: Picture = np.rint(colours * 255).astype(np.uint8)
    return coloured


def normals(normals_3HW: Tensor) -> Picture:
    """Unit normals in screen axes: a component in [-1, 1] is a colour channel; black where there is none.

    What faces the viewer (z towards -1) is drawn bright blue, as is usual.
    """
    x, y, z = normals_3HW.unbind(0)
    present = (normals_3HW != 0).any(0)
    return from_tensor((torch.stack([x, -y, -z]) + 1) / 2 * present)


@cache
def _heat_table() -> NDArray[np.uint8]:
    # Imported here: the rest of the package does without it.
    from matplotlib import colormaps

    table: NDArray[np.uint8] = colormaps[HEAT_COLOURS](np.arange(256), bytes=True)[:, :3]
    return table


@cache
def _hue_table() -> NDArray[np.float64]:
    return np.array([colorsys.hsv_to_rgb(i / HUES, 1.0, 1.0) for i in range(HUES)])
