"""Where the face is: a square around it, steady over time; cut out of the frame, and put back.

A square is (centre x, centre y, side) in px of the upright frame, continuous: 0 is the frame's left edge. It
may reach over the frame's edge; what is missing there is the edge repeated.

The framing is VoxCeleb's, on which the model is trained: measured on clips cut that way, the square is 1.85
times as large as the box of the 68 landmarks, and its centre lies a tenth of its side above theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from safa.visualize.images import RgbImage

CropBoxes = NDArray[np.float64]  # (T, 3): centre x, centre y, side, px; NaN where no face is

LANDMARK_MARGIN = 1.85  # side of the square over the longer side of the landmarks' box
LANDMARK_RISE = 0.10  # how far its centre lies above theirs, in sides
# The square follows where a person drifts to, not each nod: that motion is what is to be put on the source.
SMOOTHING_SECONDS = 1.0  # standard deviation of the Gaussian over time
OUTLIER_SIDES = 0.5  # a square whose centre is so far from the running median is somebody else's
SOFT_EDGE = 0.12  # of the side, over which a picture fades when it is put back


@dataclass(frozen=True)
class CropTrack:
    """The square of every frame of a video.

    Attributes:
        squares: (T, 3), finite: smoothed, and carried over frames without a face.
        seen: (T,) bool, whether a face was found in the frame itself.
    """

    crop_boxes: CropBoxes
    seen: NDArray[np.bool_]

    def crop_box(self, frame: int) -> NDArray[np.float64]:
        """Of one frame; a frame after the last one has the last one's."""
        crop_box: NDArray[np.float64] = self.crop_boxes[min(frame, len(self.crop_boxes) - 1)]
        return crop_box

    def was_seen(self, frame: int) -> bool:
        """Whether frame ``frame`` itself shows a face."""
        return frame < len(self.seen) and bool(self.seen[frame])


def crop_box_of_landmarks(points: NDArray[np.floating]) -> CropBoxes:
    """Landmarks (..., 68, 2) px to squares (..., 3); NaN where any point is NaN."""
    low, high = points.min(axis=-2).astype(np.float64), points.max(axis=-2).astype(np.float64)
    side = LANDMARK_MARGIN * (high - low).max(axis=-1)
    centre = (low + high) / 2
    return np.stack([centre[..., 0], centre[..., 1] - LANDMARK_RISE * side, side], axis=-1)


def centre_crop_box(width: int, height: int) -> NDArray[np.float64]:
    """The largest square in the middle of a frame: what prepared input is cut to."""
    return np.array([width / 2, height / 2, min(width, height)], np.float64)


def smooth_track(crop_boxes: CropBoxes, fps: float) -> CropTrack:
    """Smooth the squares that were found frame by frame.

    Single wrong finds are dropped, gaps are filled by straight lines, then a Gaussian runs over time.

    Raises:
        ValueError: no face in any frame.
    """
    seen = np.asarray(np.isfinite(crop_boxes).all(axis=1))
    if not seen.any():
        raise ValueError("no face in any frame")
    kept = seen & ~_outliers(crop_boxes, seen, fps)
    times = np.arange(len(crop_boxes))
    filled = np.stack([np.interp(times, times[kept], crop_boxes[kept, i]) for i in range(3)], axis=1)
    smooth = gaussian_filter1d(filled, SMOOTHING_SECONDS * fps, axis=0, mode="nearest")
    return CropTrack(smooth, seen)


def jitter(crop_boxes: CropBoxes) -> float:
    """How unsteady squares are: rms over frames of the second difference of their edges, px."""
    half = crop_boxes[:, 2:] / 2
    edges = np.concatenate([crop_boxes[:, :2] - half, crop_boxes[:, :2] + half], axis=1)
    return float(np.sqrt((np.diff(edges, n=2, axis=0) ** 2).mean()))


def crop_face(frame: RgbImage, crop_box: NDArray[np.float64], size: int) -> RgbImage:
    """The square, scaled to ``size`` x ``size`` with whole and part pixels weighed as they lie."""
    x, y, side = crop_box
    left, top, right, bottom = x - side / 2, y - side / 2, x + side / 2, y + side / 2
    height, width = frame.shape[:2]
    # Some px more than the square, as the filter looks beyond it.
    reach = int(3 * max(1.0, side / size)) + 1
    x0, y0 = int(np.floor(left)) - reach, int(np.floor(top)) - reach
    x1, y1 = int(np.ceil(right)) + reach, int(np.ceil(bottom)) + reach
    columns = np.clip(np.arange(x0, x1), 0, width - 1)
    rows = np.clip(np.arange(y0, y1), 0, height - 1)
    around = Image.fromarray(np.ascontiguousarray(frame[rows[:, None], columns]))
    box = (left - x0, top - y0, right - x0, bottom - y0)
    return np.asarray(around.resize((size, size), Image.Resampling.BICUBIC, box=box))


def paste_face(frame: RgbImage, crop_box: NDArray[np.float64], picture: RgbImage) -> RgbImage:
    """A copy of the frame with the picture (S, S, 3) in its square, faded out towards the square's edges."""
    x, y, side = crop_box
    left, top = x - side / 2, y - side / 2
    height, width = frame.shape[:2]
    x0, y0 = max(0, int(np.ceil(left))), max(0, int(np.ceil(top)))
    x1, y1 = min(width, int(np.floor(left + side))), min(height, int(np.floor(top + side)))
    whole = frame.copy()
    if x1 <= x0 or y1 <= y0:
        return whole
    scale = len(picture) / side
    box = ((x0 - left) * scale, (y0 - top) * scale, (x1 - left) * scale, (y1 - top) * scale)
    box = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], len(picture)), min(box[3], len(picture)))
    patch = Image.fromarray(picture).resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=box)
    across = _fade((np.arange(x0, x1) + 0.5 - left) / side)
    down = _fade((np.arange(y0, y1) + 0.5 - top) / side)
    alpha = (down[:, None] * across)[..., None]
    under = whole[y0:y1, x0:x1]
    whole[y0:y1, x0:x1] = np.rint(under + alpha * (np.asarray(patch, np.float32) - under)).astype(np.uint8)
    return whole


def _fade(place: NDArray[np.floating]) -> NDArray[np.float32]:
    """0 at the edges (0 and 1), 1 from ``SOFT_EDGE`` inwards, smooth at both ends."""
    t = np.clip(np.minimum(place, 1 - place) / SOFT_EDGE, 0, 1)
    faded: NDArray[np.float32] = (t * t * (3 - 2 * t)).astype(np.float32)
    return faded


def _outliers(crop_boxes: CropBoxes, seen: NDArray[np.bool_], fps: float) -> NDArray[np.bool_]:
    """Frames whose square is far from the median of the second around them."""
    wrong = np.zeros(len(crop_boxes), bool)
    reach = max(2, round(fps / 2))
    for i in np.flatnonzero(seen):
        near = slice(max(0, i - reach), i + reach + 1)
        usual = np.median(crop_boxes[near][seen[near]], axis=0)
        far = np.abs(crop_boxes[i, :2] - usual[:2]).max() > OUTLIER_SIDES * usual[2]
        wrong[i] = far or not 0.5 < crop_boxes[i, 2] / usual[2] < 2
    return wrong
