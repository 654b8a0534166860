"""Labelled panels of one frame, and strips: rows of panels for some frames of a clip."""

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
# Height of the caption over that of a panel: of videos, and of strips, whose panels are shown much smaller.
CAPTION_SHARE, STRIP_CAPTION_SHARE = 1 / 7, 1 / 5


@dataclass(frozen=True)
class Panel:
    """An image and the label that says what it shows."""

    label: str
    image: RgbImage


def chosen_frames(n_frames: int, count: int) -> tuple[int, ...]:
    """Choose evenly spaced frame numbers for the rows of a strip.

    They are the middles of equal parts of the clip, so that the first frame, which is the source of a
    reconstruction, gets no row of its own. A clip of fewer than ``count`` frames has a row for each.
    """
    count = min(count, n_frames)
    return tuple(int((i + 0.5) * n_frames / count) for i in range(count))


def captioned(panels: Sequence[Panel], panel: int) -> RgbImage:
    """Draw one row of panels, each enlarged to ``panel`` px, under their labels."""
    row = _enlarged(panels, panel)
    return stacked([_labels(row, caption_height(panel)), _images(row)])


def strip(rows: Sequence[Sequence[Panel]], panel: int) -> RgbImage:
    """Draw rows of panels, each enlarged to ``panel`` px, under one row of labels.

    Raises:
        ValueError: there are no rows, or their panels differ.
    """
    labels = {tuple(item.label for item in row) for row in rows}
    if len(labels) != 1:
        raise ValueError(f"a strip needs rows of the same panels, not {sorted(labels)}")
    large = [_enlarged(row, panel) for row in rows]
    height = caption_height(panel, STRIP_CAPTION_SHARE)
    return stacked([_labels(large[0], height), *map(_images, large)], GAP)


def caption_height(panel: int, share: float = CAPTION_SHARE) -> int:
    """Return the height in px of the bar with the labels."""
    return round(panel * share)


def _enlarged(panels: Sequence[Panel], panel: int) -> list[Panel]:
    return [Panel(item.label, enlarge(item.image, panel)) for item in panels]


def _images(row: Sequence[Panel]) -> RgbImage:
    return side_by_side([item.image for item in row], GAP)


def _labels(row: Sequence[Panel], height: int) -> RgbImage:
    return side_by_side([caption(item.label, item.image.shape[1], height) for item in row], GAP)


def video_panels(source: RgbImage, driving: RgbImage, prediction: RgbImage) -> list[Panel]:
    """Make the panels of a video: source, driving, prediction."""
    return [Panel("source", source), Panel("driving", driving), Panel("prediction", prediction)]


def strip_panels(
    source: RgbImage,
    batch: AnimatedBatch,
    i: int,
    target: NDArray[np.floating],
    estimated: NDArray[np.floating],
    panel: int,
) -> list[Panel]:
    """Make the panels of a strip: all steps from the source to the prediction of frame ``i`` of a batch.

    Args:
        source: (S, S, 3).
        target: (68, 2) px, landmarks of the driving frame that came with the data (white; NaN: no face).
        estimated: (68, 2) px, landmarks of the 3DMM (green).
        panel: px, side of the panels.
    """
    result = batch.result
    motion, render = result.motion, result.render
    driving, prediction = from_tensor(batch.driving[i]), from_tensor(result.prediction[i])
    keypoints = normalised_to_px(result.kp_driving.value[i].cpu().numpy(), driving.shape[0])
    faces = [(target, TARGET), (estimated, ESTIMATED)]
    images = {
        "source": source,
        "driving": driving,
        "prediction": prediction,
        "warped source": from_tensor(result.deformed[i]),
        "occlusion 1": heat(motion.occlusion1[i, 0]),
        "occlusion 2": heat(motion.occlusion2[i, 0]),
        "3D render": from_tensor(render.reenact[i]),
        "normals": normals(render.driving_normals[i]),
        "flow": flow(motion.deformation[i]),
        "keypoints": with_keypoints(prediction, keypoints, panel),
        "3DMM landmarks": with_landmarks(driving, faces, panel),
    }
    if batch.mask is not None:
        images["swapped here"] = heat(batch.mask[i, 0])
    height, width = enlarge(driving, panel).shape[:2]
    return [Panel(label, resized(image, (height, width))) for label, image in images.items()]


def mesh_video_panels(batch: HeadBatch, i: int) -> list[Panel]:
    """Make the panels of a 3D reconstruction's video: frame, textured head, normals."""
    return [
        Panel("frame", from_tensor(batch.image[i])),
        Panel("3D head", from_tensor(batch.render.reenact[i])),
        Panel("normals", normals(batch.render.driving_normals[i])),
    ]


def mesh_strip_panels(batch: HeadBatch, i: int, target: NDArray[np.floating], panel: int) -> list[Panel]:
    """Make the panels of a 3D reconstruction's strip.

    Args:
        target: (68, 2) px, landmarks that came with the data (white; NaN: no face).
        panel: px, side of the panels.
    """
    frame, inside = batch.image[i], batch.render.driving_mask[i].expand(3, -1, -1)
    estimated = batch.landmarks[i].cpu().numpy()
    image = from_tensor(frame)
    images = {
        "frame": image,
        "landmarks": with_landmarks(image, [(target, TARGET), (estimated, ESTIMATED)], panel),
        "3D head": from_tensor(batch.render.reenact[i]),
        "shape": from_tensor(torch.lerp(frame, _shaded(batch, i), 0.75 * inside)),
        "normals": normals(batch.render.driving_normals[i]),
        "texture": from_tensor(batch.albedo[i]),
    }
    height, width = enlarge(image, panel).shape[:2]
    return [Panel(label, resized(item, (height, width))) for label, item in images.items()]


def _shaded(batch: HeadBatch, i: int) -> Tensor:
    """Render the head in grey, lit from the viewer: (3, S, S)."""
    towards_viewer = -batch.render.driving_normals[i, 2]
    return (0.2 + 0.75 * towards_viewer.clamp(0, 1)).expand(3, -1, -1)
