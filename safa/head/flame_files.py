"""Read the files FLAME and DECA give their users, and turn them into ``HeadAssets``.

Files (none can be redistributed; see ``safa assets check``):
    generic_model.pkl       FLAME 2020 or 2023: a pickle of numpy, chumpy and scipy objects
    head_template.obj       DECA: the same mesh with its texture layout
    landmark_embedding.npy  DECA: where the 68 landmarks lie on the mesh
    uv_face_mask.png, uv_face_eye_mask.png   DECA: the face in texture space, without and with eyes and mouth
Nothing inside the pickles is run (``safa.safe_pickle``).
"""

from __future__ import annotations

import io
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from safa.errors import UserError
from safa.files import check_regular
from safa.head.assets import HeadAssets
from safa.image_files import open_image
from safa.reading import boundary, read_limited
from safa.safe_pickle import dense, load_data_pickle, load_object_npy

NUM_SHAPE = 100  # identity components SAFA uses, the file's 0..99
NUM_EXPRESSION = 50  # expression components SAFA uses
FIRST_EXPRESSION = 300  # where the file's expression components begin
NO_MESH = "is not a mesh of triangles with texture coordinates (f v/vt v/vt v/vt)"
MASK_SIDE = 256  # px
ROOT_PARENT = 4294967295  # mark of the root in kintree_table: -1 as uint32

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class FlameFiles:
    """Paths of one user's files."""

    model: Path  # generic_model.pkl
    template: Path  # head_template.obj
    landmarks: Path  # landmark_embedding.npy
    masks: Path  # folder with uv_face_mask.png and uv_face_eye_mask.png


@dataclass(frozen=True)
class TextureLayout:
    """The texture side of an OBJ mesh: ``uv_coords`` (T, 2) in [0, 1], ``faces`` and ``uv_faces`` (F, 3)."""

    uv_coords: Floats
    faces: Ints
    uv_faces: Ints


def read_head_assets(files: FlameFiles) -> HeadAssets:
    """Read and check all files.

    Raises:
        UserError: a file is missing, unsafe, damaged, or its arrays have the wrong shape.
    """
    for path in (files.model, files.template, files.landmarks):
        if not path.is_file():
            raise UserError(
                "no such file", str(path), "See `safa assets check` for where its owner offers it."
            )
    model = read_flame_model(files.model)
    layout = read_texture_layout(files.template)
    if not np.array_equal(layout.faces, model["faces"]):
        raise UserError("its faces are not those of the FLAME model", str(files.template))
    landmarks = read_landmark_embedding(files.landmarks)
    arrays = {
        **model,
        **landmarks,
        "uv_coords": layout.uv_coords.astype(np.float32),
        "uv_faces": layout.uv_faces.astype(np.int64),
        "face_mask": read_mask(files.masks / "uv_face_mask.png"),
        "face_eye_mask": read_mask(files.masks / "uv_face_eye_mask.png"),
    }
    assets = HeadAssets(
        **{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    )
    assets.validate()
    return assets


def read_flame_model(path: Path) -> dict[str, Floats | Ints]:
    """``generic_model.pkl`` of FLAME 2020 or 2023 as float32 and int64 arrays, named as in ``HeadAssets``."""
    check_regular(path)
    with path.open("rb") as file:
        content = load_data_pickle(file, str(path))
    if not isinstance(content, dict):
        raise UserError("holds no dictionary", str(path))
    keys = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")
    raw = {key: dense(_field(content, key, path), f"{path}: {key}") for key in keys}
    single = [key for key, array in raw.items() if array.ndim == 0]
    if single:
        raise UserError(f"'{single[0]}' is one number, not an array", str(path))
    num_vertices = len(raw["v_template"])
    components = raw["shapedirs"].shape[-1]
    expected = {
        "v_template": (num_vertices, 3),
        "f": (len(raw["f"]), 3),
        "shapedirs": (num_vertices, 3, max(components, FIRST_EXPRESSION + NUM_EXPRESSION)),
        "posedirs": (num_vertices, 3, 36),
        "J_regressor": (5, num_vertices),
        "kintree_table": (2, 5),
        "weights": (num_vertices, 5),
    }
    for key, shape in expected.items():
        if raw[key].shape != shape:
            raise UserError(f"'{key}' has shape {raw[key].shape}, expected {shape}", str(path))
    parents = _whole(raw["kintree_table"][0], f"{path}: kintree_table")
    parents[parents == ROOT_PARENT] = -1
    last = FIRST_EXPRESSION + NUM_EXPRESSION
    return {
        "v_template": raw["v_template"].astype(np.float32),
        "faces": _whole(raw["f"], f"{path}: f"),
        "shapedirs": raw["shapedirs"][:, :, :NUM_SHAPE].astype(np.float32),
        "expressiondirs": raw["shapedirs"][:, :, FIRST_EXPRESSION:last].astype(np.float32),
        "posedirs": raw["posedirs"].astype(np.float32),
        "J_regressor": raw["J_regressor"].astype(np.float32),
        "parents": parents,
        "lbs_weights": raw["weights"].astype(np.float32),
    }


def read_landmark_embedding(path: Path) -> dict[str, Floats | Ints]:
    """``landmark_embedding.npy``: face indices and barycentric weights, named as in ``HeadAssets``."""
    content = load_object_npy(path)
    if not isinstance(content, dict):
        raise UserError("holds no dictionary", str(path))
    shapes = {
        "static_lmk": ((51,), (51, 3)),
        "dynamic_lmk": ((79, 17), (79, 17, 3)),
        "full_lmk": ((68,), (68, 3)),
    }
    arrays: dict[str, Floats | Ints] = {}
    for name, (faces_shape, bary_shape) in shapes.items():
        faces = dense(_field(content, f"{name}_faces_idx", path), f"{path}: {name}")
        bary = dense(_field(content, f"{name}_bary_coords", path), f"{path}: {name}")
        if faces.size != np.prod(faces_shape) or bary.size != np.prod(bary_shape):
            raise UserError(
                f"'{name}' has shapes {faces.shape} and {bary.shape}, not {faces_shape} and {bary_shape}",
                str(path),
            )
        # "full_lmk" comes as (1, 68) -> (68,); the others have their shape already.
        arrays[f"{name}_faces"] = _whole(faces.reshape(faces_shape), f"{path}: {name}")  # (1, 68) -> (68,)
        arrays[f"{name}_bary"] = bary.reshape(bary_shape).astype(np.float32)  # (1, 68, 3) -> (68, 3)
    return arrays


def _whole(array: NDArray[Any], where: str) -> NDArray[np.int64]:
    """Indices as int64, in whatever type a file has them."""
    if not (np.abs(array.astype(np.float64)) < 2**53).all():
        raise UserError("holds numbers that are no indices", where)
    return array.astype(np.int64)


def read_texture_layout(path: Path) -> TextureLayout:
    """The ``vt`` and ``f`` lines of a triangle OBJ whose corners are ``v/vt`` (other lines are passed over).

    Raises:
        UserError: a face that is no triangle of ``v/vt`` corners, or not a number where one must stand.
    """
    uv_coords, corners = array("d"), array("q")
    text = read_limited(path, "mesh_bytes").decode("utf-8", errors="replace")
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        kind, _, rest = line.partition(" ")
        parts = rest.split(maxsplit=3)
        try:
            if kind == "vt":
                across, up = parts[:2]
                uv_coords.extend((float(across), float(up)))
            elif kind == "f":
                triangle = [corner.split("/", 2)[:2] for corner in parts]
                if list(map(len, triangle)) != [2, 2, 2]:
                    raise UserError(NO_MESH, str(path))
                corners.extend(int(part) - 1 for corner in triangle for part in corner)
        except (ValueError, OverflowError):
            raise UserError(f"line {number} is not a number where one must stand", str(path)) from None
    if not uv_coords or not corners:
        raise UserError(NO_MESH, str(path))
    coordinates = np.array(uv_coords).reshape(-1, 2)  # (T * 2,) -> (T, 2)
    table = np.array(corners, np.int64).reshape(-1, 3, 2)  # (F * 6,) -> (F, 3, 2)
    if not (np.abs(coordinates) <= 1e6).all():
        raise UserError("a texture coordinate out of all range", str(path))
    if table[..., 1].min() < 0 or table[..., 1].max() >= len(coordinates):
        raise UserError("a face names a texture coordinate that is not there", str(path))
    return TextureLayout(coordinates, table[..., 0], table[..., 1])


def read_mask(path: Path) -> Floats:
    """Channel 0 of a mask picture, (256, 256) float32 in [0, 1]."""
    data = read_limited(path, "photo_bytes")
    refused = boundary(str(path), "not a readable PNG", "See `safa assets check`.")
    with refused, open_image(io.BytesIO(data), str(path), ("PNG",)) as picture:
        if picture.size != (MASK_SIDE, MASK_SIDE):  # before memory is taken for it
            raise UserError(f"the mask is {picture.size}, not {MASK_SIDE} x {MASK_SIDE} px", str(path))
        pixels = np.asarray(picture)
    channel = pixels if pixels.ndim == 2 else pixels[..., 0]
    return channel.astype(np.float32) / np.float32(255)


def _field(content: dict[Any, Any], key: str, path: Path) -> Any:
    try:
        return content[key]
    except KeyError:
        raise UserError(f"has no '{key}'", str(path), "Is this the right file?") from None
