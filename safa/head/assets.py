"""The arrays a 3D head is made of, in one checked value.

FLAME's files are turned into this by ``safa.head.flame_files``; ``safa.head.builtin`` makes one that needs no
download; a released checkpoint holds one (``HeadAssets.from_state_dict``).
Source: FLAME (Li et al., 2017); docs/model.md, section 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from safa.array_files import read_npz
from safa.errors import UserError
from safa.files import Location, atomic_file, local_file

NUM_SHAPE = 100
NUM_EXPRESSION = 50
NUM_JOINTS = 5  # global, neck, jaw, left eye, right eye
NUM_POSE_FEATURES = 9 * (NUM_JOINTS - 1)  # 3 x 3 entries of every rotation but the root's
NUM_CONTOUR = 17  # landmarks 0..16, along the jaw
NUM_INNER = 51  # landmarks 17..67
NUM_LANDMARKS = NUM_CONTOUR + NUM_INNER
NUM_YAWS = 79  # contour rows: yaw 0..39 degrees, then -1..-39

_MAKE_ONE = "Make one with `safa assets convert`."


@dataclass(frozen=True)
class HeadAssets:
    """A skinned head mesh with blend shapes, 68 landmarks and a texture layout.

    V vertices, F faces, T texture vertices. Float tensors are float32, index tensors int64, all on the CPU.
    Metres; y up, x to the subject's left, z out of the face.

    Attributes:
        v_template: (V, 3), the average head.
        faces: (F, 3), vertex indices.
        shapedirs: (V, 3, 100), vertex offset for each identity coefficient.
        expressiondirs: (V, 3, 50), the same for expressions.
        posedirs: (V, 3, 36), offset for each entry of (R - I) of joints 1..4.
        J_regressor: (5, V), joints from vertices.
        parents: (5,), parent joint; the root's is -1.
        lbs_weights: (V, 5), skinning weights, rows sum to 1.
        static_lmk_faces, static_lmk_bary: (51,) and (51, 3), landmarks 17..67.
        dynamic_lmk_faces, dynamic_lmk_bary: (79, 17) and (79, 17, 3), contour landmarks 0..16 by yaw.
        full_lmk_faces, full_lmk_bary: (68,) and (68, 3), all landmarks fixed to the mesh.
        uv_coords: (T, 2) in [0, 1], origin at the lower left (OBJ ``vt``).
        uv_faces: (F, 3), texture vertex indices, parallel to ``faces``.
        face_mask: (M, M) in [0, 1], the face in texture space without eyes and mouth; M is usually 256.
        face_eye_mask: (M, M) in [0, 1], with them.
    """

    v_template: Tensor
    faces: Tensor
    shapedirs: Tensor
    expressiondirs: Tensor
    posedirs: Tensor
    J_regressor: Tensor
    parents: Tensor
    lbs_weights: Tensor
    static_lmk_faces: Tensor
    static_lmk_bary: Tensor
    dynamic_lmk_faces: Tensor
    dynamic_lmk_bary: Tensor
    full_lmk_faces: Tensor
    full_lmk_bary: Tensor
    uv_coords: Tensor
    uv_faces: Tensor
    face_mask: Tensor
    face_eye_mask: Tensor

    @property
    def num_vertices(self) -> int:
        return len(self.v_template)

    @property
    def num_faces(self) -> int:
        return len(self.faces)

    @classmethod
    def from_state_dict(cls, tdmm_state: Mapping[str, Tensor]) -> HeadAssets:
        """The head inside a 3DMM state dict, so that a released checkpoint needs no FLAME download.

        The arrays stay FLAME's: its licence goes with them.

        Raises:
            UserError: a key is missing, or a shape is not a head's.
        """

        def get(key: str) -> Tensor:
            if key not in tdmm_state:
                raise UserError(f"no '{key}': it holds no 3D head", "3DMM state dict")
            return tdmm_state[key].detach().cpu()

        shapedirs, uv = get("flame.shapedirs"), get("uvcoords")[0]
        posedirs = get("flame.posedirs")
        assets = cls(
            v_template=get("flame.v_template"),
            faces=get("flame.faces_tensor"),
            shapedirs=shapedirs[..., :NUM_SHAPE].contiguous(),  # (V, 3, 100)
            expressiondirs=shapedirs[..., NUM_SHAPE:].contiguous(),  # (V, 3, 50)
            posedirs=posedirs.T.reshape(-1, 3, len(posedirs)).contiguous(),  # (36, V*3) -> (V, 3, 36)
            J_regressor=get("flame.J_regressor"),
            parents=get("flame.parents"),
            lbs_weights=get("flame.lbs_weights"),
            static_lmk_faces=get("flame.lmk_faces_idx"),
            static_lmk_bary=get("flame.lmk_bary_coords"),
            dynamic_lmk_faces=get("flame.dynamic_lmk_faces_idx"),
            dynamic_lmk_bary=get("flame.dynamic_lmk_bary_coords"),
            full_lmk_faces=get("flame.full_lmk_faces_idx")[0],
            full_lmk_bary=get("flame.full_lmk_bary_coords")[0],
            # (T, 2); v turns up again, [0, 1]
            uv_coords=torch.stack([(uv[:, 0] + 1) / 2, (1 - uv[:, 1]) / 2], dim=-1),
            uv_faces=get("uvfaces")[0],
            face_mask=get("uv_face_mask")[0, 0],
            face_eye_mask=get("uv_face_eye_mask")[0, 0],
        )
        assets.validate()
        return assets

    @classmethod
    def load(cls, location: Location) -> HeadAssets:
        """Read what ``save`` wrote; nothing in it is ever unpickled.

        Raises:
            UserError: no such file, not such a file, or arrays that do not fit together.
        """
        with local_file(location) as path:
            return cls._load(path)

    @classmethod
    def _load(cls, path: Path) -> HeadAssets:
        if not path.is_file():
            raise UserError("no such head file", str(path), _MAKE_ONE)
        try:
            arrays = read_npz(path, [field.name for field in dataclasses.fields(cls)])
        except UserError as error:
            raise UserError(error.what, error.where, error.fix or _MAKE_ONE) from None
        assets = cls(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        assets.validate(str(path))
        return assets

    def save(self, path: Path) -> None:
        """Write one ``.npz``, atomically."""
        arrays = {f.name: getattr(self, f.name).cpu().numpy() for f in dataclasses.fields(self)}
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def validate(self, where: str = "3D head") -> None:
        """Check dtypes, shapes and index ranges; ``where`` names the origin in errors.

        Raises:
            UserError: the first thing that does not fit.
        """
        for name, shape in self._expected_shapes().items():
            tensor: Tensor = getattr(self, name)
            dtype = torch.int64 if name in _INDICES else torch.float32
            if tuple(tensor.shape) != shape:
                raise UserError(f"'{name}' has shape {tuple(tensor.shape)}, expected {shape}", where)
            if tensor.dtype != dtype:
                raise UserError(f"'{name}' is {tensor.dtype}, expected {dtype}", where)
            if dtype == torch.float32 and not tensor.isfinite().all():
                raise UserError(f"'{name}' holds numbers that are not finite", where)
        for name, limit in self._index_limits().items():
            tensor = getattr(self, name)
            if tensor.min() < 0 or tensor.max() >= limit:
                raise UserError(f"'{name}' points outside 0..{limit - 1}", where)
        if self.parents[0] != -1 or any(not 0 <= self.parents[j] < j for j in range(1, NUM_JOINTS)):
            raise UserError("'parents' is no tree with joint 0 as its root, parents first", where)

    def _expected_shapes(self) -> dict[str, tuple[int, ...]]:
        vertices, faces, texture = len(self.v_template), len(self.faces), len(self.uv_coords)
        mask = (len(self.face_mask), len(self.face_mask))
        return {
            "v_template": (vertices, 3),
            "faces": (faces, 3),
            "shapedirs": (vertices, 3, NUM_SHAPE),
            "expressiondirs": (vertices, 3, NUM_EXPRESSION),
            "posedirs": (vertices, 3, NUM_POSE_FEATURES),
            "J_regressor": (NUM_JOINTS, vertices),
            "parents": (NUM_JOINTS,),
            "lbs_weights": (vertices, NUM_JOINTS),
            "static_lmk_faces": (NUM_INNER,),
            "static_lmk_bary": (NUM_INNER, 3),
            "dynamic_lmk_faces": (NUM_YAWS, NUM_CONTOUR),
            "dynamic_lmk_bary": (NUM_YAWS, NUM_CONTOUR, 3),
            "full_lmk_faces": (NUM_LANDMARKS,),
            "full_lmk_bary": (NUM_LANDMARKS, 3),
            "uv_coords": (texture, 2),
            "uv_faces": (faces, 3),
            "face_mask": mask,
            "face_eye_mask": mask,
        }

    def _index_limits(self) -> dict[str, int]:
        faces = len(self.faces)
        landmarks = dict.fromkeys(("static_lmk_faces", "dynamic_lmk_faces", "full_lmk_faces"), faces)
        return {"faces": len(self.v_template), "uv_faces": len(self.uv_coords), **landmarks}


_INDICES = frozenset(
    {"faces", "parents", "static_lmk_faces", "dynamic_lmk_faces", "full_lmk_faces", "uv_faces"}
)
