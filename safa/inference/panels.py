"""What the model did with one frame, as labelled panels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safa.inference.animator import AnimatedBatch
from safa.inference.mesh import HeadBatch
from safa.pictures.canvas import Picture, enlarge, from_tensor, resized
from safa.pictures.maps import flow, heat, normals
from safa.pictures.points import ESTIMATED, GIVEN, normalised_to_px, with_keypoints, with_landmarks
from safa.pictures.strips import Panel


def film_panels(source: Picture, batch: AnimatedBatch, i: int) -> list[Panel]:
    """The panels of a video: source, driving, prediction."""
    return [
        Panel("source", source),
        Panel("driving", from_tensor(batch.driving[i])),
        Panel("prediction", from_tensor(batch.result.prediction[i])),
    ]


def strip_panels(
    source: Picture,
    batch: AnimatedBatch,
    i: int,
    given: NDArray[np.floating],
    estimated: NDArray[np.floating],
    panel: int,
) -> list[Panel]:
    """The panels of a strip: the way from the source to the prediction of frame ``i`` of a batch.

    Args:
        given, estimated: (68, 2) px, landmarks of the driving frame: the data's (white; NaN: no face) and the
            3DMM's (green).
        panel: px, the side of the panels.
    """
    result = batch.result
    motion, render = result.motion, result.render
    driving, prediction = from_tensor(batch.driving[i]), from_tensor(result.prediction[i])
    keypoints = normalised_to_px(result.kp_driving.value[i].cpu().numpy(), driving.shape[0])
    faces = [(given, GIVEN), (estimated, ESTIMATED)]
    pictures = {
        "source": source,
        "driving": driving,
        "deformed source": from_tensor(result.deformed[i]),
        "occlusion 1": heat(motion.occlusion1[i, 0]),
        "occlusion 2": heat(motion.occlusion2[i, 0]),
        "prediction": prediction,
        "3D render": from_tensor(render.reenact[i]),
        "normals": normals(render.driving_normals[i]),
        "flow": flow(motion.deformation[i]),
        "keypoints": with_keypoints(prediction, keypoints, panel),
        "3DMM landmarks": with_landmarks(driving, faces, panel),
    }
    if batch.mask is not None:
        pictures["swapped here"] = heat(batch.mask[i, 0])
    height, width = enlarge(driving, panel).shape[:2]
    return [Panel(label, resized(picture, (height, width))) for label, picture in pictures.items()]


def mesh_film_panels(batch: HeadBatch, i: int) -> list[Panel]:
    """The panels of a 3D reconstruction's video: frame, textured head, normals."""
    return [
        Panel("frame", from_tensor(batch.image[i])),
        Panel("3D head", from_tensor(batch.render.reenact[i])),
        Panel("normals", normals(batch.render.driving_normals[i])),
    ]


def mesh_strip_panels(batch: HeadBatch, i: int, given: NDArray[np.floating], panel: int) -> list[Panel]:
    """The panels of its strip; ``given`` (68, 2) px are the data's landmarks (white; NaN: no face)."""
    frame, inside = batch.image[i], batch.render.driving_mask[i].expand(3, -1, -1)
    estimated = batch.landmarks[i].cpu().numpy()
    picture = from_tensor(frame)
    pictures = {
        "frame": picture,
        "landmarks": with_landmarks(picture, [(given, GIVEN), (estimated, ESTIMATED)], panel),
        "3D head": from_tensor(batch.render.reenact[i]),
        "shape": from_tensor(torch.lerp(frame, _shaded(batch, i), 0.75 * inside)),
        "normals": normals(batch.render.driving_normals[i]),
        "texture": from_tensor(batch.albedo[i]),
    }
    height, width = enlarge(picture, panel).shape[:2]
    return [Panel(label, resized(item, (height, width))) for label, item in pictures.items()]


def _shaded(batch: HeadBatch, i: int) -> Tensor:
    """The head in grey, lit from the viewer: (3, S, S)."""
    towards_viewer = -batch.render.driving_normals[i, 2]
    return (0.2 + 0.75 * towards_viewer.clamp(0, 1)).expand(3, -1, -1)
