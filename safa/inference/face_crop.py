"""Crop boxes around faces: from landmarks, steady over time, cropped out of a frame and pasted back.

A crop box is (centre x, centre y, side) in px of the upright frame, continuous: 0 is the frame's left or top
edge. It may reach over the frame's edge; the edge's pixels are repeated there.

The crop is VoxCeleb's, on which the model is trained: measured on clips cropped that way, the box is 1.85
times as large as the box of the 68 landmarks, and its centre lies a tenth of its side above theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safa.visualize.images import RgbImage

CropBox = NDArray[np.float64]  # (3,): centre x, centre y, side in px; NaN where there is no face
CropBoxes = NDArray[np.float64]  # (T, 3): one crop box per frame

LANDMARK_MARGIN = 1.85  # side of the crop box over the longer side of the landmarks' box
LANDMARK_RISE = 0.10  # how far the crop box's centre lies above the landmarks' centre, in sides
# The crop box follows where a person drifts to, not each nod: nods are motion that the source has to take on.
SMOOTHING_SECONDS = 1.0  # standard deviation of the Gaussian over time
OUTLIER_SIDES = 0.5  # a crop box whose centre is this far from the running median is another person's
SOFT_EDGE = 0.12  # of the side, over which a crop fades when it is pasted back


@dataclass(frozen=True)
class CropTrack:
    """The crop boxes of a video.

    Attributes:
        crop_boxes: (T, 3), finite: smoothed, and interpolated where no face was detected.
        seen: (T,) bool, whether a face was detected in the frame itself.
    """

    crop_boxes: CropBoxes
    seen: NDArray[np.bool_]

    def crop_box(self, frame: int) -> CropBox:
        """Return the crop box of a frame; frames after the last known one share its box."""
        crop_box: CropBox = self.crop_boxes[min(frame, len(self.crop_boxes) - 1)]
        return crop_box

    def was_seen(self, frame: int) -> bool:
        """Say whether a face was detected in this very frame."""
        return frame < len(self.seen) and bool(self.seen[frame])


def crop_box_of_landmarks(points: NDArray[np.floating]) -> CropBoxes:
    """Return crop boxes (..., 3) around landmarks (..., 68, 2) px; NaN where any point is NaN."""
    low, high = points.min(axis=-2).astype(np.float64), points.max(axis=-2).astype(np.float64)
    side = LANDMARK_MARGIN * (high - low).max(axis=-1)
    centre = (low + high) / 2
    return np.stack([centre[..., 0], centre[..., 1] - LANDMARK_RISE * side, side], axis=-1)


def centre_crop_box(width: int, height: int) -> CropBox:
    """Return the largest square in the middle of a frame, which suits inputs that are cropped already."""
    return np.array([width / 2, height / 2, min(width, height)], np.float64)


def smooth_track(crop_boxes: CropBoxes, fps: float, cuts: Sequence[int] = ()) -> CropTrack:
    """Smooth crop boxes that were detected frame by frame.

    Within each scene single wrong detections are dropped, gaps are filled linearly, then a Gaussian runs over
    time. Scenes that show no face are filled linearly, too.

    Args:
        cuts: the frames that begin a scene, ascending; the first frame always does.

    Raises:
        ValueError: no face in any frame.
    """
    seen = np.asarray(np.isfinite(crop_boxes).all(axis=1))
    if not seen.any():
        raise ValueError("no face in any frame")
    smooth = np.full(crop_boxes.shape, np.nan)
    for first, end in pairwise(sorted({0, *cuts, len(crop_boxes)})):
        if seen[first:end].any():
            smooth[first:end] = _smooth_scene(crop_boxes[first:end], seen[first:end], fps)
    return CropTrack(_filled(smooth, np.isfinite(smooth[:, 0])), seen)


def _smooth_scene(crop_boxes: CropBoxes, seen: NDArray[np.bool_], fps: float) -> CropBoxes:
    from scipy.ndimage import gaussian_filter1d  # 0.3 s, which workers without faces to track go without

    kept = seen & ~_outliers(crop_boxes, seen, fps)
    if not kept.any():  # as many places as frames: none of them is the wrong one
        kept = seen
    filled = _filled(crop_boxes, kept)
    smooth: CropBoxes = gaussian_filter1d(filled, SMOOTHING_SECONDS * fps, axis=0, mode="nearest")
    return smooth


def _filled(crop_boxes: CropBoxes, known: NDArray[np.bool_]) -> CropBoxes:
    """Crop boxes (T, 3) with those that are not known (T,) interpolated between their neighbours."""
    times = np.arange(len(crop_boxes))
    return np.stack([np.interp(times, times[known], crop_boxes[known, i]) for i in range(3)], axis=1)


def jitter(crop_boxes: CropBoxes) -> float:
    """Measure unsteadiness in px: the rms over frames of the second difference of the boxes' edges."""
    half = crop_boxes[:, 2:] / 2
    edges = np.concatenate([crop_boxes[:, :2] - half, crop_boxes[:, :2] + half], axis=1)
    return float(np.sqrt((np.diff(edges, n=2, axis=0) ** 2).mean()))


def crop_face(frame: RgbImage, crop_box: CropBox, size: int) -> RgbImage:
    """Crop a frame (H, W, 3) and scale the crop to (size, size, 3); partly covered pixels count in part."""
    x, y, side = crop_box
    left, top, right, bottom = x - side / 2, y - side / 2, x + side / 2, y + side / 2
    height, width = frame.shape[:2]
    # Some px more than the crop box, as the filter looks beyond it.
    reach = int(3 * max(1.0, side / size)) + 1
    x0, y0 = int(np.floor(left)) - reach, int(np.floor(top)) - reach
    x1, y1 = int(np.ceil(right)) + reach, int(np.ceil(bottom)) + reach
    columns = np.clip(np.arange(x0, x1), 0, width - 1)
    rows = np.clip(np.arange(y0, y1), 0, height - 1)
    around = Image.fromarray(np.ascontiguousarray(frame[rows[:, None], columns]))
    box = (left - x0, top - y0, right - x0, bottom - y0)
    return np.asarray(around.resize((size, size), Image.Resampling.BICUBIC, box=box))


def paste_face(frame: RgbImage, crop_box: CropBox, face: RgbImage) -> RgbImage:
    """Return a copy of the frame with the face (S, S, 3) in its crop box, faded out towards the edges."""
    x, y, side = crop_box
    left, top = x - side / 2, y - side / 2
    height, width = frame.shape[:2]
    x0, y0 = max(0, int(np.ceil(left))), max(0, int(np.ceil(top)))
    x1, y1 = min(width, int(np.floor(left + side))), min(height, int(np.floor(top + side)))
    result = frame.copy()
    if x1 <= x0 or y1 <= y0:
        return result
    scale = len(face) / side
    box = ((x0 - left) * scale, (y0 - top) * scale, (x1 - left) * scale, (y1 - top) * scale)
    box = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], len(face)), min(box[3], len(face)))
    patch = Image.fromarray(face).resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=box)
    across = _fade((np.arange(x0, x1) + 0.5 - left) / side)
    down = _fade((np.arange(y0, y1) + 0.5 - top) / side)
    alpha = (down[:, None] * across)[..., None]
    background = result[y0:y1, x0:x1]
    blend = background + alpha * (np.asarray(patch, np.float32) - background)
    result[y0:y1, x0:x1] = np.rint(blend).astype(np.uint8)
    return result


def _fade(position: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the opacity at a position in [0, 1]: 0 at both edges, 1 from ``SOFT_EDGE`` inwards, smooth."""
    t = np.clip(np.minimum(position, 1 - position) / SOFT_EDGE, 0, 1)
    faded: NDArray[np.float32] = (t * t * (3 - 2 * t)).astype(np.float32)
    return faded


def _outliers(crop_boxes: CropBoxes, seen: NDArray[np.bool_], fps: float) -> NDArray[np.bool_]:
    """Mark frames whose crop box is far from the median of the second around them."""
    wrong = np.zeros(len(crop_boxes), bool)
    reach = max(2, round(fps / 2))
    for i in np.flatnonzero(seen):
        near = slice(max(0, i - reach), i + reach + 1)
        median = np.median(crop_boxes[near][seen[near]], axis=0)
        far = np.abs(crop_boxes[i, :2] - median[:2]).max() > OUTLIER_SIDES * median[2]
        wrong[i] = far or not 0.5 < crop_boxes[i, 2] / median[2] < 2
    return wrong
