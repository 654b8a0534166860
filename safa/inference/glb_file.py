"""Textured meshes as one binary glTF 2.0 file (.glb), which browsers, Blender and phones open.

Source: the glTF 2.0 specification (Khronos Group), sections 3.6 to 3.9 and 4 (GLB): chunks of JSON and binary
data, each padded to four bytes; y is up, z towards the viewer, and texture rows count from the top.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAGIC, VERSION = 0x46546C67, 2
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942
FLOAT, UINT32 = 5126, 5125  # component types
VERTICES, INDICES = 34962, 34963  # targets of buffer views


def write_glb(
    path: Path,
    vertices: NDArray[np.float32],
    faces: NDArray[np.int64],
    uv: NDArray[np.float32],
    uv_faces: NDArray[np.int64],
    texture: NDArray[np.uint8],
) -> None:
    """Write one textured mesh; a vertex with several texture positions is written once for each.

    Args:
        vertices: (V, 3) metres.
        faces: (F, 3) vertex numbers, from 0.
        uv: (T, 2) in [0, 1], origin at the lower left.
        uv_faces: (F, 3) numbers into ``uv``.
        texture: (H, W, 3).
    """
    pairs = np.stack([faces, uv_faces], axis=-1).reshape(-1, 2)  # (F, 3, 2) -> (3 F, 2)
    unique, corner = np.unique(pairs, axis=0, return_inverse=True)
    normals = _normals(vertices, faces)
    picture = io.BytesIO()
    Image.fromarray(texture).save(picture, "PNG")
    buffers = [
        vertices[unique[:, 0]].astype("<f4"),
        normals[unique[:, 0]].astype("<f4"),
        (np.array([0, 1]) + uv[unique[:, 1]] * np.array([1, -1])).astype("<f4"),
        corner.ravel().astype("<u4"),
    ]
    parts = [*(array.tobytes() for array in buffers), picture.getvalue()]
    views, at = [], 0
    for part, target in zip(parts, (VERTICES, VERTICES, VERTICES, INDICES, None), strict=True):
        view = {"buffer": 0, "byteOffset": at, "byteLength": len(part)}
        views.append(view if target is None else {**view, "target": target})
        at += len(part) + -len(part) % 4
    binary = b"".join(part + bytes(-len(part) % 4) for part in parts)
    scene = json.dumps(_scene(buffers, views, len(binary))).encode("ascii")
    scene += b" " * (-len(scene) % 4)
    size = 12 + 8 + len(scene) + 8 + len(binary)
    path.write_bytes(
        struct.pack("<III", MAGIC, VERSION, size)
        + struct.pack("<II", len(scene), JSON_CHUNK)
        + scene
        + struct.pack("<II", len(binary), BINARY_CHUNK)
        + binary
    )


def _scene(
    buffers: list[NDArray[np.generic]], views: list[dict[str, int]], n_bytes: int
) -> dict[str, object]:
    positions = buffers[0]
    kinds = (("VEC3", FLOAT), ("VEC3", FLOAT), ("VEC2", FLOAT), ("SCALAR", UINT32))
    accessors: list[dict[str, object]] = [
        {"bufferView": number, "componentType": component, "count": len(array), "type": kind}
        for number, (array, (kind, component)) in enumerate(zip(buffers, kinds, strict=True))
    ]
    accessors[0] |= {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    primitive = {
        "attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2},
        "indices": 3,
        "material": 0,
    }
    surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
    return {
        "asset": {"version": "2.0", "generator": "safa (synthetic)"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "head"}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"pbrMetallicRoughness": surface, "doubleSided": True}],
        "textures": [{"source": 0}],
        "images": [{"bufferView": 4, "mimeType": "image/png"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": n_bytes}],
    }


def _normals(vertices: NDArray[np.float32], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Unit normals (V, 3); faces weigh as much as their area. A vertex without any face points up."""
    corners = vertices[faces].astype(np.float64)  # (F, 3, 3)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = np.zeros((len(vertices), 3))
    np.add.at(sums, faces.ravel(), np.repeat(cross, 3, axis=0))
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    up = np.array([0.0, 1.0, 0.0])
    normals: NDArray[np.float64] = np.where(lengths > 0, sums / np.maximum(lengths, 1e-30), up)
    return normals
