"""Motion transfer: from the state of a driving face to the state that the source takes on.

Source states have batch 1, driving states (B, ...). The *reference* is the driving frame that relative motion
is measured from: the first one, or the one most like the source (``find_best_frame``).
Source: First Order Motion Model (Siarohin et al., 2019), section 3.3; SAFA (Wang et al., 2021), section 3;
docs/model.md, section 8.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from safa.config.inference import TransferConfig
from safa.geometry.matrices import inverse_2x2
from safa.head.model import HeadCode
from safa.models.keypoints import Keypoints
from safa.models.safa import FaceState
from safa.precision import full_precision


class NoFaceGeometryError(ValueError):
    """Landmarks or keypoints that are missing, or that span no area, so that no motion can be measured."""


Transfer = Callable[[FaceState], FaceState]  # driving states (B, ...) to those that the source takes on


def make_transfer(source: FaceState, reference: FaceState, config: TransferConfig) -> Transfer:
    """Return the chosen kind of transfer as a function of the driving state.

    Raises:
        NoFaceGeometryError: with ``adapt_scale``, all keypoints lie on one line.
    """
    if config.mode == "absolute":
        return lambda driving: absolute(source, driving)
    gain = movement_gain(source.keypoints, reference.keypoints) if config.adapt_scale else 1.0
    return lambda driving: relative(source, driving, reference, keypoint_gain=gain)


def absolute(source: FaceState, driving: FaceState) -> FaceState:
    """Combine the driving frame's keypoints, expression, pose and camera with the source's head shape."""
    shape = source.code.shape.expand_as(driving.code.shape)
    return FaceState(driving.keypoints, driving.code.replace(shape=shape), driving.feature)


def relative(
    source: FaceState, driving: FaceState, reference: FaceState, *, keypoint_gain: float = 1.0
) -> FaceState:
    """Change the source as the driving face has changed since the reference frame.

    The feature is the driving frame's own.

    Args:
        keypoint_gain: scales the displacement of the keypoints.
    """
    return FaceState(
        keypoints=_relative_keypoints(
            source.keypoints, driving.keypoints, reference.keypoints, keypoint_gain
        ),
        code=_relative_code(source.code, driving.code, reference.code),
        feature=driving.feature,
    )


def _relative_keypoints(
    source: Keypoints, driving: Keypoints, reference: Keypoints, gain: float
) -> Keypoints:
    with full_precision(driving.value):
        change = driving.jacobian @ inverse_2x2(reference.jacobian)
        return Keypoints(
            value=source.value + gain * (driving.value - reference.value),
            jacobian=change @ source.jacobian,
        )


def _relative_code(source: HeadCode, driving: HeadCode, reference: HeadCode) -> HeadCode:
    """Add the differences of all parameters, but multiply by the ratio of the camera's scale."""
    return HeadCode(
        shape=source.shape + driving.shape - reference.shape,
        expression=source.expression + driving.expression - reference.expression,
        rotation=source.rotation + driving.rotation - reference.rotation,
        jaw=source.jaw + driving.jaw - reference.jaw,
        scale=source.scale * driving.scale / reference.scale,
        translation=source.translation + driving.translation - reference.translation,
    )


def movement_gain(source: Keypoints, reference: Keypoints) -> float:
    """Return how much larger the source's face is than the driving one.

    It is the root of the ratio of the areas of the keypoints' convex hulls. Both are (1, K, ...).

    Raises:
        NoFaceGeometryError: all keypoints lie on one line.
    """
    areas = [hull_area(_points(keypoints.value)) for keypoints in (source, reference)]
    return float(np.sqrt(areas[0] / areas[1]))


def find_best_frame(source_landmarks: NDArray[np.floating], driving_landmarks: NDArray[np.floating]) -> int:
    """Return the number of the driving frame whose face looks most like the source's.

    Landmarks are centred and divided by the root of their convex hull's area; the frame with the smallest sum
    of squared differences wins, and the first of equal ones.

    Args:
        source_landmarks: (68, 2) or (68, 3); x and y are used.
        driving_landmarks: (T, 68, 2) or (T, 68, 3); frames with NaN have no face and are skipped.

    Raises:
        NoFaceGeometryError: there is no face in the source, or in no driving frame.
    """
    if not np.isfinite(source_landmarks).all():
        raise NoFaceGeometryError("the source has no landmarks")
    target = _normalised(source_landmarks)
    distances = [
        ((_normalised(points) - target) ** 2).sum() if np.isfinite(points).all() else np.inf
        for points in driving_landmarks
    ]
    if not np.isfinite(distances).any():
        raise NoFaceGeometryError("no driving frame has landmarks")
    return int(np.argmin(distances))


def hull_area(points: NDArray[np.floating]) -> float:
    """Return the area of the convex hull of (N, 2) points.

    Raises:
        NoFaceGeometryError: there are fewer than three points, or all lie on one line.
    """
    from scipy.spatial import ConvexHull, QhullError  # 0.1 s, which other transfers go without

    try:
        return float(ConvexHull(points).volume)  # of a flat hull, "volume" is the area
    except QhullError:
        raise NoFaceGeometryError("the points lie on one line and span no area") from None


def _normalised(points: NDArray[np.floating]) -> NDArray[np.float64]:
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    scaled: NDArray[np.float64] = centred / np.sqrt(hull_area(centred[:, :2]))
    return scaled


def _points(value: Tensor) -> NDArray[np.float64]:
    """Keypoints (1, K, 2) as an array (K, 2)."""
    if len(value) != 1:
        raise ValueError(f"one face is needed, not a batch of {len(value)}")
    points: NDArray[np.float64] = value[0].detach().double().cpu().numpy()
    return points
