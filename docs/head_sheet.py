"""A contact sheet of the built-in head: 5 identities x 5 expressions x 3 yaws.

python docs/head_sheet.py -o docs/head_sheet.png
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from safa.head.builtin import BuiltinHead, build
from safa.head.model import HeadCode, HeadModel
from safa.head.raster import interpolate_vertices, rasterize
from safa.head.render import BEHIND_SCREEN, vertex_normals

TILE, SAMPLES = 176, 2  # pixels of a picture; rendered larger and averaged
MARGIN = 18  # cut off left and right
IDENTITY_SEED, NUM_PEOPLE = 7, 5
YAWS = (-35.0, 0.0, 35.0)  # degrees
JAW_OPEN = 0.32  # radians
SCALE, RISE = 7.5, -0.010  # of the camera
_SKINS = [(0.87, 0.68, 0.57), (0.55, 0.37, 0.27), (0.93, 0.77, 0.68), (0.73, 0.53, 0.40), (0.40, 0.26, 0.19)]
_LIGHT = (-0.4, -0.5, -0.77)  # where it comes from, in screen axes
_BACKGROUND = 0.62
_GAMMA = 2.2
COLOUR_STEP = 4  # of 256: keeps the file small


def vertex_colours(
    regions: Mapping[str, NDArray[np.float32]], skin: tuple[float, float, float] = _SKINS[0]
) -> NDArray[np.float64]:
    """(V, 3) plain colours in [0, 1] by region."""
    base = np.asarray(skin)
    colours = np.tile(base, (len(regions["skin"]), 1))
    layers: list[tuple[str, NDArray[np.float64], float]] = [
        ("cheeks", base * [1.05, 0.8, 0.78], 0.35),
        ("scalp", base * 0.55, 0.45),
        ("eyelids", base * [0.9, 0.78, 0.75], 0.5),
        ("nostrils", base * 0.35, 0.9),
        ("brows", base * 0.25, 0.85),
        ("lashes", base * 0.15, 0.9),
        ("upper_lip", base * [0.86, 0.58, 0.58], 1.0),
        ("lower_lip", base * [0.9, 0.62, 0.62], 1.0),
        ("mouth_interior", np.array([0.25, 0.06, 0.06]), 1.0),
        ("teeth", np.array([0.9, 0.88, 0.82]), 1.0),
        ("eyeballs", np.array([0.93, 0.92, 0.9]), 1.0),
        ("iris", np.array([0.28, 0.36, 0.42]), 1.0),
        ("pupil", np.array([0.03, 0.03, 0.03]), 1.0),
    ]
    for name, colour, strength in layers:
        cover = strength * regions[name].astype(np.float64)[:, None]
        colours = colours * (1 - cover) + colour * cover
    return colours


def _codes(head: BuiltinHead, shape: Tensor) -> HeadCode:
    """One person with every expression at every yaw: expressions outermost."""
    named = head.expressions
    still = np.zeros_like(named["smile"])
    rows = [
        (still, 0.0),
        (still, JAW_OPEN),
        (named["smile"], 0.05),
        (named["brows_up"], 0.0),
        (named["blink"], 0.0),
    ]
    batch = len(rows) * len(YAWS)
    expression = torch.tensor(np.stack([row[0] for row in rows])).repeat_interleave(len(YAWS), dim=0)
    jaw, rotation = torch.zeros(batch, 3), torch.zeros(batch, 3)
    jaw[:, 0] = torch.tensor([row[1] for row in rows]).repeat_interleave(len(YAWS))
    rotation[:, 1] = torch.tensor([math.radians(yaw) for yaw in YAWS]).repeat(len(rows))
    scale = torch.full((batch, 1), SCALE)
    translation = torch.tensor([0.0, RISE]).expand(batch, 2)
    return HeadCode(shape.expand(batch, -1), expression, rotation, jaw, scale, translation)


def _shade(vertices: Tensor, faces: Tensor, colours: Tensor) -> NDArray[np.uint8]:
    """Pictures (B, TILE, TILE - 2 * MARGIN, 3) of heads on the screen."""
    normals = vertex_normals(vertices, faces)
    size = TILE * SAMPLES
    fragments = rasterize(vertices + torch.tensor([0.0, 0.0, BEHIND_SCREEN]), faces, size)
    attributes = torch.cat([normals, colours.expand(len(vertices), -1, -1)], dim=-1)
    picture = interpolate_vertices(fragments, attributes, faces)
    normal = torch.nn.functional.normalize(picture[:, :3], dim=1)
    light = torch.nn.functional.normalize(torch.tensor(_LIGHT), dim=0)
    direct = ((normal * light[:, None, None]).sum(1, keepdim=True) + 0.25).clamp(min=0) / 1.25
    lit = 0.95 * direct + 0.30 - 0.12 * normal[:, 1:2]  # the rest comes from above
    image = (picture[:, 3:].clamp(min=0) ** _GAMMA * lit) ** (1 / _GAMMA)
    image = torch.where(fragments.hit[:, None], image, _BACKGROUND).clamp(0, 1)
    image = torch.nn.functional.avg_pool2d(image, SAMPLES)[..., MARGIN : TILE - MARGIN]
    return (image.permute(0, 2, 3, 1) * 255).round().byte().numpy()


def draw_sheet() -> NDArray[np.uint8]:
    """The sheet: a row for each person, expressions side by side, three yaws each."""
    head = build()
    model = HeadModel(head.assets).eval()
    shapes = torch.randn(NUM_PEOPLE, 100, generator=torch.Generator().manual_seed(IDENTITY_SEED))
    rows = []
    for shape, skin in zip(shapes, _SKINS, strict=True):
        colours = torch.tensor(vertex_colours(head.regions, skin)).float()[None]
        with torch.no_grad():
            vertices = model(_codes(head, shape)).vertices
            rows.append(np.concatenate(list(_shade(vertices, head.assets.faces, colours)), axis=1))
    return np.concatenate(rows)


def main(arguments: list[str] | None = None) -> int:
    """Write the sheet; the command line."""
    parser = argparse.ArgumentParser(description="Draw a contact sheet of the built-in head.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    output: Path = parser.parse_args(arguments).output
    coarse = draw_sheet() // COLOUR_STEP * COLOUR_STEP + COLOUR_STEP // 2
    Image.fromarray(coarse).save(output, optimize=True)
    sys.stdout.write(f"{output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
