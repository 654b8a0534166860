"""The ground truth of a synthetic video: head codes and landmarks of each frame, clips and their boxes.

The camera of the codes looks at a square **canvas** of the frame's longer side, centred on the frame. A
point of the model at x in [-1, 1] lies at ``x * side / 2 + side / 2 - left`` in frame pixels, and y likewise;
``left`` and ``top`` are how far the canvas extends beyond the frame.

Clips and the boxes around their faces are as in VoxCeleb's lists.
"""

from __future__ import annotations

import dataclasses
from dataclasses import astuple, dataclass, fields

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from safa.data.crop import Box
from safa.files import Location, atomic_file, local_file
from safa.head.model import HeadCode, HeadModel

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Canvas:
    """The square the camera sees, and the part of it that is the frame."""

    side: int  # px
    left: int  # px of the canvas to the left of the frame
    top: int

    @classmethod
    def around(cls, frame_size: tuple[int, int]) -> Canvas:
        height, width = frame_size
        side = max(height, width)
        return cls(side, (side - width) // 2, (side - height) // 2)

    def to_frame(self, points: Floats) -> Floats:
        """Normalised (..., 2) -> pixels of the frame."""
        offset = np.array([self.left, self.top], dtype=np.float32)
        return (points * (self.side / 2) + self.side / 2 - offset).astype(np.float32)


@dataclass(frozen=True)
class Track:
    """The head in each of T frames; all float32, as in ``HeadCode``."""

    shape: Floats  # (100,), the same in every frame
    expression: Floats  # (T, 50)
    rotation: Floats  # (T, 3)
    jaw: Floats  # (T, 3)
    scale: Floats  # (T, 1)
    translation: Floats  # (T, 2)

    def __len__(self) -> int:
        return len(self.expression)

    def at(self, frames: slice) -> Track:
        """Some of the frames."""
        moving = {f.name: getattr(self, f.name)[frames] for f in fields(self) if f.name != "shape"}
        return dataclasses.replace(self, **moving)

    def code(self) -> HeadCode:
        """The frames as a batch for the head model."""
        parts = (self.expression, self.rotation, self.jaw, self.scale, self.translation)
        expression, rotation, jaw, scale, translation = (torch.from_numpy(part) for part in parts)
        shape = torch.from_numpy(self.shape).expand(len(expression), -1)
        return HeadCode(shape, expression, rotation, jaw, scale, translation)


@dataclass(frozen=True)
class Clip:
    """A part of a video, and the box around its face in frame pixels."""

    start: int
    end: int  # exclusive
    box: Box


def landmarks_in_frame(track: Track, canvas: Canvas, model: HeadModel, batch: int = 64) -> Floats:
    """The model's 68 landmarks of every frame, (T, 68, 2) px of the frame."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(track), batch):
            points = model(track.at(slice(start, start + batch)).code()).landmarks[..., :2]
            parts.append(canvas.to_frame(points.numpy()))
    return np.concatenate(parts)


def save_truth(path: Location, track: Track, canvas: Canvas, clips: tuple[Clip, ...]) -> None:
    """Write ``<video>.truth.npz``: the track, ``canvas`` (3,), ``clips`` (C, 2), ``bboxes`` (C, 4)."""
    arrays = {field.name: getattr(track, field.name) for field in fields(track)}
    with atomic_file(path) as temporary:
        np.savez(
            temporary,
            canvas=np.array([canvas.side, canvas.left, canvas.top]),
            clips=np.array([[clip.start, clip.end] for clip in clips]),
            bboxes=np.array([astuple(clip.box) for clip in clips]),
            **arrays,
        )


def load_truth(path: Location) -> tuple[Track, Canvas, tuple[Clip, ...]]:
    """Read what ``save_truth`` wrote; nothing is unpickled."""
    with local_file(path) as local, np.load(local, allow_pickle=False) as file:
        track = Track(**{field.name: file[field.name] for field in fields(Track)})
        side, left, top = (int(v) for v in file["canvas"])
        spans, boxes = file["clips"].tolist(), file["bboxes"].tolist()
    clips = tuple(Clip(start, end, Box(*box)) for (start, end), box in zip(spans, boxes, strict=True))
    return track, Canvas(side, left, top), clips


# ---- clips -------------------------------------------------------------------------------------------------

# Where the box of VoxCeleb-style crops lies around the landmarks of a clip (measured on example crops):
# brows to chin fill 0.3 to 0.9 of the height, with the face in the middle.
_TOP, _BOTTOM = 0.31, 0.90
_SIDES = 0.06  # at least this much room left and right, of the box


Spans = tuple[tuple[int, int], ...]  # (start, end) frames, end exclusive


def clip_spans(rng: Generator, frames: int, two: bool) -> Spans:
    """One or two (start, end) spans inside a video, a few frames away from its ends and from each other."""
    margin = max(1, min(6, frames // 20))
    start, end = (int(rng.integers(1, margin + 1)) for _ in range(2))
    if not two:
        return ((start, frames - end),)
    middle = frames // 2
    return ((start, middle - 1), (middle + 1, frames - end))


def face_box(landmarks: Floats, frame_size: tuple[int, int]) -> Box:
    """A square around the whole face track (T, 68, 2), within the frame."""
    height, width = frame_size
    points = landmarks.reshape(-1, 2)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    side = min(_side(points), height, width)
    left = _shifted((x0 + x1 - side) / 2, side, (x0, x1), width)
    top = _shifted(y0 - _TOP * side, side, (y0, y1), height)
    return Box(left, top, left + side, top + side)


def _side(points: Floats) -> int:
    """Side of the box around (N, 2) points in a frame without borders."""
    width, height = np.ptp(points, axis=0)
    return int(np.ceil(max(height / (_BOTTOM - _TOP), width / (1 - 2 * _SIDES))))


def _shifted(start: float, side: int, inside: tuple[float, float], length: int) -> int:
    """``start``, moved so that [start, start + side] holds ``inside`` and lies in 0..length."""
    start = min(start, inside[0])
    start = max(start, inside[1] - side)
    return int(np.ceil(np.clip(start, 0, length - side)))


def travel(landmarks: Floats) -> float:
    """Mean way of a clip's landmarks (T, 68, 2) from its first frame, as a share of the box around them."""
    way = np.linalg.norm(landmarks - landmarks[:1], axis=-1).mean()
    return float(way / _side(landmarks.reshape(-1, 2)))
