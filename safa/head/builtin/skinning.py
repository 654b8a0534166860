"""Joints, and how much of each the vertices follow.

As in FLAME: joint 0 is the root at the base of the neck, 1 carries the head, 2 the jaw, 3 and 4 the eyeballs.
"""

from __future__ import annotations

import numpy as np

from safa.head.assets import NUM_POSE_FEATURES
from safa.head.builtin.mesh import Mesh
from safa.head.builtin.skin import LIP_LINE
from safa.head.builtin.surface import EYE, MM, MOUTH_Y, Array, bump, smoothstep
from safa.head.builtin.topology import Ints

PARENTS = [-1, 0, 1, 1, 1]
# Where the joints lie, mm: root, neck, jaw hinge (in front of the ears), eyes.
_JAW_OPENING = 9 * 1 + 3 * 2 + 1  # entry (2, 1) of the jaw's rotation: the sine of its angle about x
JOINTS = np.array([[0, -130, -28], [0, -58, -24], [0, -8, -8], EYE, EYE * [-1, 1, 1]])


def _sides_of_lips(mesh: Mesh) -> tuple[Ints, Ints]:
    """Vertices from the rim of the mouth inwards, of the upper and of the lower lip."""
    rings = mesh.mouth.rings
    return rings[:, mesh.mouth.upper].ravel(), rings[:, mesh.mouth.lower].ravel()


def jaw_weights(mesh: Mesh) -> Array:
    """(V,) share of the jaw: 1 on lower lip and chin, fading up the cheeks and down the throat."""
    x, y, z = (mesh.vertices / MM).T  # (V, 3) -> three of (V,)
    # The boundary runs from the corner of the mouth up to the hinge; it is the softer, the further outside.
    side = np.abs(x)
    away = smoothstep(side, 18.0, 50.0)
    boundary = -46.5 + 18.0 * away
    softness = 1.5 + 17.0 * smoothstep(side, 12.0, 42.0)
    weight = smoothstep(boundary - y, -softness, softness)
    behind = smoothstep(z, -22.0, 14.0)
    # How far down and back from the edge of the chin: the skin of the throat stretches all the way.
    beyond = 0.5 * (58.0 - z) + (-93.0 - y)
    throat = 1 - smoothstep(beyond, 6.0, 56.0)
    weight = weight * behind * throat
    upper, lower = _sides_of_lips(mesh)
    corner = np.clip(np.abs(x) / 25.0, 0, 1)
    # On the lips the weight tells the lips apart, and meets in the middle at the corners.
    rings = len(mesh.mouth.rings)
    inwards = np.repeat(np.clip(np.arange(rings) / LIP_LINE, 0, 1), len(mesh.mouth.upper))  # (R,) -> (R*N,)
    grip = smoothstep(inwards, 0.0, 0.5)
    near = 0.5 * smoothstep(corner, 0.45, 1.0)
    weight[upper] = (1 - grip) * weight[upper] + grip * near[upper]
    weight[lower] = (1 - grip) * weight[lower] + grip * (1 - near[lower])
    corners = mesh.mouth.rings[1:][:, [0, mesh.mouth.half]]
    weight[corners] = 0.5
    weight[mesh.pocket_end] = 0.5
    return weight


def skinning_weights(mesh: Mesh) -> Array:
    """(V, 5), rows sum to 1."""
    y = mesh.vertices[:, 1] / MM
    weights = np.zeros((len(y), 5))
    jaw = jaw_weights(mesh)
    for part in ("eye_left", "eye_right", "ear_left", "ear_right", "teeth_upper"):
        jaw[mesh.parts[part]] = 0
    jaw[mesh.parts["teeth_lower"]] = 1
    root = 1 - smoothstep(y, -160.0, -70.0)
    root *= 1 - jaw
    weights[:, 0], weights[:, 2] = root, jaw
    weights[:, 1] = 1 - root - jaw
    for joint, part in ((3, "eye_left"), (4, "eye_right")):
        weights[mesh.parts[part]] = np.eye(5)[joint]
    return weights


def pose_correctives(mesh: Mesh) -> Array:
    """(V, 3, 36) metres for each entry of (R - I) of joints 1..4: what skin does that no joint carries.

    Only the jaw has any: as it opens, the cheeks sink and the corners of the mouth draw together.
    """
    x, y, z = (mesh.vertices / MM).T  # (V, 3) -> three of (V,)
    side, skin = np.abs(x), mesh.mask("skin") * smoothstep(z, -10.0, 12.0)
    cheek, corner = (
        skin * bump(side, y, at, size) for at, size in (((43, -38), (13, 15)), ((25, MOUTH_Y), (10, 8)))
    )
    moved = np.stack([-np.sign(x) * (5.0 * cheek + 7.0 * corner), 0 * x, -3.0 * cheek], axis=-1)  # (V, 3)
    directions = np.zeros((len(x), 3, NUM_POSE_FEATURES))
    directions[..., _JAW_OPENING] = moved * MM
    return directions


def joint_regressor(mesh: Mesh) -> Array:
    """(5, V) that finds the joints of any head: rows sum to 1, and give ``JOINTS`` for the average one."""
    regressor = np.zeros((len(JOINTS), len(mesh.vertices)))
    skin = mesh.mask("skin")
    for joint, at in enumerate(JOINTS[:3]):
        y = mesh.vertices[:, 1] / MM - at[1]
        # A belt round the head at the joint's height.
        height = 14.0 if joint == 2 else 18.0
        belt = skin * bump(y, y, (0.0, 0.0), (height, height))
        regressor[joint] = _weights_with_mean(mesh.vertices / MM, belt, at)
    for joint, part in ((3, "eye_left"), (4, "eye_right")):
        regressor[joint] = _weights_with_mean(mesh.vertices / MM, mesh.mask(part), JOINTS[joint])
    return regressor


def _weights_with_mean(points: Array, start: Array, mean: Array) -> Array:
    """Weights (V,) near ``start``'s, that sum to 1 and average the points (V, 3) to ``mean``."""
    used = start > 1e-3
    share = start[used] / start[used].sum()
    homogeneous = np.concatenate([points[used], np.ones((used.sum(), 1))], axis=1)  # (N, 4)
    missing = np.append(mean, 1.0) - share @ homogeneous
    weighted = homogeneous * share[:, None]  # (N, 4) * (N, 1)
    correction = np.linalg.solve(weighted.T @ homogeneous, missing)  # (4, N) @ (N, 4) -> (4,)
    weights = np.zeros(len(points))
    weights[used] = share + weighted @ correction
    return weights
