"""Strips: for some frames of a clip, one row of labelled panels that show what the model did.

XXX What the model did with one frame, as labelled panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from safa.models.safa import AnimatedBatch
from safa.models.tdmm import HeadBatch
from safa.visualize.images import RgbImage, caption, enlarge, from_tensor, resized, side_by_side, stacked
from safa.visualize.overlays import (
    ESTIMATED,
    TARGET,
    flow,
    heat,
    normalised_to_px,
    normals,
    with_keypoints,
    with_landmarks,
)

GAP = 3  # px between panels
CAPTION_SHARE = 1 / 7  # of a panel's height


@dataclass(frozen=True)
class Panel:
    """A picture and what it shows."""

    label: str
    picture: RgbImage


def chosen_frames(n_frames: int, count: int) -> tuple[int, ...]:
    """Evenly spaced frame numbers for the rows of a strip.

    The middles of equal parts of the clip, so that the first frame, which is the source of a reconstruction,
    is no row of its own. Fewer than ``count`` for a clip that has not so many.
    """
    count = min(count, n_frames)
    return tuple(int((i + 0.5) * n_frames / count) for i in range(count))


def captioned(panels: Sequence[Panel], panel: int) -> RgbImage:
    """One row of panels, each enlarged to ``panel`` px, under their labels."""
    row = _enlarged(panels, panel)
    return stacked([_labels(row, panel), _pictures(row)])


def strip(rows: Sequence[Sequence[Panel]], panel: int) -> RgbImage:
    """Rows of panels, each enlarged to ``panel`` px, under one row of labels.

    Raises:
        ValueError: no rows, or rows of different panels.
    """
    labels = {tuple(item.label for item in row) for row in rows}
    if len(labels) != 1:
        raise ValueError(f"a strip needs rows of the same panels, not {sorted(labels)}")
    large = [_enlarged(row, panel) for row in rows]
    return stacked([_labels(large[0], panel), *map(_pictures, large)], GAP)


def caption_height(panel: int) -> int:
    """Of the bar with the labels, px."""
    return round(panel * CAPTION_SHARE)


def _enlarged(panels: Sequence[Panel], panel: int) -> list[Panel]:
    return [Panel(item.label, enlarge(item.picture, panel)) for item in panels]


def _pictures(row: Sequence[Panel]) -> RgbImage:
    return side_by_side([item.picture for item in row], GAP)


def _labels(row: Sequence[Panel], panel: int) -> RgbImage:
    height = caption_height(panel)
    return side_by_side([caption(item.label, item.picture.shape[1], height) for item in row], GAP)


def video_panels(source: RgbImage, batch: AnimatedBatch, i: int) -> list[Panel]:
    """The panels of a video: source, driving, prediction."""
    return [
        Panel("source", source),
        Panel("driving", from_tensor(batch.driving[i])),
        Panel("prediction", from_tensor(batch.result.prediction[i])),
    ]


def strip_panels(
    source: RgbImage,
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
    faces = [(given, TARGET), (estimated, ESTIMATED)]
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


def mesh_video_panels(batch: HeadBatch, i: int) -> list[Panel]:
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
        "landmarks": with_landmarks(picture, [(given, TARGET), (estimated, ESTIMATED)], panel),
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
