"""The head model: coefficients to vertices and landmarks by blend shapes and linear blend skinning.

A weak-perspective camera then takes them from metres to the screen.
B batch, V vertices, J = 5 joints (global, neck, jaw, left eye, right eye), L landmarks.
Source: FLAME (Li et al., 2017), equations (2) to (5); docs/model.md, section 3."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.geometry.rotations import axis_angle_to_matrix
from safa.head.assets import NUM_EXPRESSION, NUM_JOINTS, NUM_SHAPE, HeadAssets

NECK = 1  # joint
CONTOUR_SIDE = 39  # degrees of yaw the contour table knows to each side
SCALE_OFFSET = 10.0  # camera scale of a code of zeros

RAW_SIZES = (NUM_SHAPE, NUM_EXPRESSION, 3, 3, 1, 2)  # shape, expression, rotation, jaw, scale, translation
RAW_SIZE = sum(RAW_SIZES)


@dataclass(frozen=True)
class HeadCode:
    """The parameters of a batch of heads.

    Attributes:
        shape: (B, 100), identity.
        expression: (B, 50).
        rotation: (B, 3), of the whole head, axis-angle.
        jaw: (B, 3), axis-angle.
        scale: (B, 1), of the camera, about 10.
        translation: (B, 2), of the camera, in (-0.5, 0.5) when estimated.
    """

    shape: Tensor
    expression: Tensor
    rotation: Tensor
    jaw: Tensor
    scale: Tensor
    translation: Tensor

    @classmethod
    def from_raw(cls, raw: Tensor) -> HeadCode:
        """Split the estimator's linear output (B, 159) and bring the camera into its range."""
        # (B, 159) -> (B, 100), (B, 50), (B, 3), (B, 3), (B, 1), (B, 2)
        shape, expression, rotation, jaw, scale, translation = torch.split(raw, list(RAW_SIZES), dim=1)
        return cls(shape, expression, rotation, jaw, scale + SCALE_OFFSET, torch.sigmoid(translation) - 0.5)

    def replace(self, **parts: Tensor) -> HeadCode:
        """A copy with some parts exchanged."""
        return dataclasses.replace(self, **parts)

    def detach(self) -> HeadCode:
        """A copy without its graph."""
        return HeadCode(**{f.name: getattr(self, f.name).detach() for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class HeadGeometry:
    """A batch of heads on the screen (x right, y down, z away from the viewer; the picture is [-1, 1]).

    Attributes:
        vertices: (B, V, 3).
        landmarks: (B, 68, 3); the contour slides over the face with the yaw.
        landmarks3d: (B, 68, 3), every landmark fixed to the skin.
    """

    vertices: Tensor
    landmarks: Tensor
    landmarks3d: Tensor


def landmarks_px(geometry: HeadGeometry, size: int) -> Tensor:
    """The 68 landmarks (B, 68, 2) in pixels of a picture of ``size`` x ``size``."""
    return geometry.landmarks[..., :2] * (size / 2) + size / 2


class HeadModel(nn.Module):
    """``HeadCode`` -> ``HeadGeometry``. Nothing in it is trained.

    Buffers and parameters carry the names of the released checkpoint (``flame.*``).
    """

    faces_tensor: Tensor
    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    J_regressor: Tensor
    parents: Tensor
    lbs_weights: Tensor
    lmk_faces_idx: Tensor
    lmk_bary_coords: Tensor
    dynamic_lmk_faces_idx: Tensor
    dynamic_lmk_bary_coords: Tensor
    full_lmk_faces_idx: Tensor
    full_lmk_bary_coords: Tensor
    neck_kin_chain: Tensor

    def __init__(self, assets: HeadAssets) -> None:
        super().__init__()
        self.eye_pose = nn.Parameter(torch.zeros(1, 6), requires_grad=False)
        self.neck_pose = nn.Parameter(torch.zeros(1, 3), requires_grad=False)
        # Read once on the CPU: a Python loop over a tensor on the GPU would wait for it at every joint.
        self._parents: list[int] = assets.parents.tolist()
        buffers = {
            "faces_tensor": assets.faces,
            "v_template": assets.v_template,
            "shapedirs": torch.cat([assets.shapedirs, assets.expressiondirs], dim=-1),  # (V, 3, 150)
            "posedirs": assets.posedirs.flatten(0, 1).T.contiguous(),  # (V, 3, 36) -> (36, V*3)
            "J_regressor": assets.J_regressor,
            "parents": assets.parents,
            "lbs_weights": assets.lbs_weights,
            "lmk_faces_idx": assets.static_lmk_faces,
            "lmk_bary_coords": assets.static_lmk_bary,
            "dynamic_lmk_faces_idx": assets.dynamic_lmk_faces,
            "dynamic_lmk_bary_coords": assets.dynamic_lmk_bary,
            "full_lmk_faces_idx": assets.full_lmk_faces[None],  # (68,) -> (1, 68)
            "full_lmk_bary_coords": assets.full_lmk_bary[None],  # (68, 3) -> (1, 68, 3)
            "neck_kin_chain": torch.tensor([NECK, 0]),
        }
        for name, tensor in buffers.items():
            # A copy: the assets are shared, and loading a state dict writes into buffers.
            self.register_buffer(name, tensor.clone())

    def forward(self, code: HeadCode) -> HeadGeometry:
        """Vertices and landmarks on the screen."""
        vertices = self.vertices_in_model_space(code.shape, code.expression, code.rotation, code.jaw)
        landmarks = self._landmarks(vertices, self._contour_row(code.rotation))
        fixed = self._on_faces(  # (B, 68, 3)
            vertices, self.full_lmk_faces_idx.expand(len(vertices), -1), self.full_lmk_bary_coords
        )
        on_screen = weak_perspective(  # (B, V + 136, 3)
            torch.cat([vertices, landmarks, fixed], dim=1), code.scale, code.translation
        )
        counts = [vertices.shape[1], landmarks.shape[1], fixed.shape[1]]
        return HeadGeometry(*torch.split(on_screen, counts, dim=1))  # (B, V, 3), (B, 68, 3), (B, 68, 3)

    def vertices_in_model_space(
        self, shape: Tensor, expression: Tensor, rotation: Tensor, jaw: Tensor
    ) -> Tensor:
        """Posed vertices (B, V, 3) in metres, before any camera; arguments as in ``HeadCode``."""
        batch = len(shape)
        coefficients = torch.cat([shape, expression], dim=1)  # (B, 150)
        # (V, 3) + (B, 150) @ (150, V*3) -> (B, V, 3)
        shaped = self.v_template + (coefficients @ self.shapedirs.flatten(0, 1).T).reshape(batch, -1, 3)
        joints = self.J_regressor @ shaped  # (B, J, 3)
        neck, eyes = self.neck_pose.expand(batch, -1), self.eye_pose.expand(batch, -1)  # (B, 3), (B, 6)
        # (B, 15) -> (B, J, 3)
        pose = torch.cat([rotation, neck, jaw, eyes], dim=1).reshape(batch, NUM_JOINTS, 3)
        rotations = axis_angle_to_matrix(pose)  # (B, J, 3, 3)
        identity = torch.eye(3, dtype=pose.dtype, device=pose.device)
        pose_features = (rotations[:, 1:] - identity).flatten(1)  # (B, 36)
        posed = shaped + (pose_features @ self.posedirs).reshape(batch, -1, 3)  # (B, V*3) -> (B, V, 3)
        joint_rotations, joint_offsets = self._chain(rotations, joints)
        # Each vertex gets the weighted mean of the joints' rigid motions.
        # (V, J) @ (B, J, 9 + 3) -> (B, V, 12)
        blended = self.lbs_weights @ torch.cat([joint_rotations.flatten(2), joint_offsets], dim=2)
        vertex_rotations = blended[..., :9].reshape(batch, -1, 3, 3)  # (B, V, 9) -> (B, V, 3, 3)
        return (vertex_rotations * posed.unsqueeze(2)).sum(-1) + blended[..., 9:]  # (B, V, 3)

    def _chain(self, rotations: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Rigid motion ``x -> R x + t`` of each joint along the tree: (B, J, 3, 3) and (B, J, 3)."""
        world_rotations, world_joints = [rotations[:, 0]], [joints[:, 0]]
        for joint in range(1, NUM_JOINTS):
            parent = self._parents[joint]
            bone = (joints[:, joint] - joints[:, parent]).unsqueeze(-1)  # (B, 3) -> (B, 3, 1)
            world_rotations.append(world_rotations[parent] @ rotations[:, joint])
            world_joints.append((world_rotations[parent] @ bone).squeeze(-1) + world_joints[parent])  # (B, 3)
        joint_rotations = torch.stack(world_rotations, dim=1)  # (B, J, 3, 3)
        # (B, J, 3, 3) @ (B, J, 3, 1) -> (B, J, 3)
        rest = (joint_rotations @ joints.unsqueeze(-1)).squeeze(-1)
        return joint_rotations, torch.stack(world_joints, dim=1) - rest  # (B, J, 3, 3), (B, J, 3)

    def _contour_row(self, rotation: Tensor) -> Tensor:
        """Row of the contour table for each head's yaw: (B,) int64. Not differentiable."""
        with torch.no_grad():
            total = axis_angle_to_matrix(rotation) @ axis_angle_to_matrix(self.neck_pose)
            across = (total[:, 0, 0].square() + total[:, 1, 0].square()).sqrt()
            yaw = torch.rad2deg(torch.atan2(-total[:, 2, 0], across)).clamp(max=CONTOUR_SIDE).round().long()
            return torch.where(yaw >= 0, yaw, CONTOUR_SIDE - yaw.clamp(min=-CONTOUR_SIDE))

    def _landmarks(self, vertices: Tensor, contour_row: Tensor) -> Tensor:
        """17 contour and 51 inner landmarks: (B, 68, 3)."""
        batch = len(vertices)
        faces = torch.cat(  # (B, 17) and (51,) -> (B, 68)
            [self.dynamic_lmk_faces_idx[contour_row], self.lmk_faces_idx.expand(batch, -1)], dim=1
        )
        bary = torch.cat(  # (B, 17, 3) and (51, 3) -> (B, 68, 3)
            [self.dynamic_lmk_bary_coords[contour_row], self.lmk_bary_coords.expand(batch, -1, -1)], dim=1
        )
        return self._on_faces(vertices, faces, bary)

    def _on_faces(self, vertices: Tensor, faces: Tensor, bary: Tensor) -> Tensor:
        """Points given by face and barycentric weights (B or 1, L, 3): (B, L, 3)."""
        corners = self.faces_tensor[faces]  # (B, L, 3)
        sample = torch.arange(len(vertices), device=vertices.device)[:, None, None]  # (B, 1, 1)
        # (B, L, 3 corners, 3) * (B, L, 3, 1) -> (B, L, 3)
        return (vertices[sample, corners] * bary.unsqueeze(-1)).sum(dim=2)


def head_of_landmarks(head: HeadModel) -> HeadModel:
    """The same head with the few vertices alone that a landmark lies on: it gives the same landmarks.

    Joints are sums over all vertices, and these are linear in the code, so the joints become vertices, too,
    which no weight moves. Nothing is saved of it.
    """
    landmark_faces = (head.lmk_faces_idx, head.dynamic_lmk_faces_idx, head.full_lmk_faces_idx)
    used = torch.cat([index.flatten() for index in landmark_faces])  # three of (...) -> (N,)
    kept = torch.unique(head.faces_tensor[used])
    place = torch.zeros(len(head.v_template), dtype=torch.long, device=kept.device)
    place[kept] = torch.arange(len(kept), device=kept.device)
    few = copy.deepcopy(head)
    few.faces_tensor = place[head.faces_tensor]  # faces without landmarks are never looked at
    joints = head.J_regressor
    # (K, 3) and (J, V) @ (V, 3) -> (K + J, 3)
    few.v_template = torch.cat([head.v_template[kept], joints @ head.v_template])
    # (J, V) and (V, 3, 150) -> (J, 3, 150)
    directions = torch.einsum("jv,vcd->jcd", joints, head.shapedirs)
    few.shapedirs = torch.cat([head.shapedirs[kept], directions])  # two of (..., 3, 150) -> (K + J, 3, 150)
    count = len(kept) + NUM_JOINTS
    few.J_regressor = torch.eye(count, dtype=joints.dtype, device=joints.device)[-NUM_JOINTS:]  # (J, V')
    posedirs = head.posedirs.reshape(len(head.posedirs), -1, 3)[:, kept]  # (36, V*3) -> (36, V, 3)
    few.posedirs = F.pad(posedirs, (0, 0, 0, NUM_JOINTS)).flatten(1)  # (36, V', 3) -> (36, V'*3)
    few.lbs_weights = F.pad(head.lbs_weights[kept], (0, 0, 0, NUM_JOINTS))  # (V', J)
    return few


def weak_perspective(points: Tensor, scale: Tensor, translation: Tensor) -> Tensor:
    """``(x, y, z) -> (s (x + tx), -s (y + ty), -s z)`` for points (B, N, 3).

    y and z change sign: on the screen y points down, and z grows away from the viewer.

    Args:
        scale: (B, 1); 10 makes 0.1 m reach from the centre to the border.
        translation: (B, 2), metres.
    """
    x, y, z = points.unbind(-1)  # (B, N, 3) -> three of (B, N)
    tx, ty = translation.unbind(-1)  # (B, 2) -> two of (B,)
    # three of (B, N) -> (B, N, 3)
    return torch.stack([scale * (x + tx[:, None]), -scale * (y + ty[:, None]), -scale * z], dim=-1)
