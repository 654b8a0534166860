"""What is exactly known of a synthetic video: the codes behind each frame, the clips, the landmarks.

The camera of the codes looks at a square **canvas** of the frame's longer side, centred on the frame. A
point of the model at x in [-1, 1] lies at ``x * side / 2 + side / 2 - left`` in frame pixels, and y likewise;
``left`` and ``top`` are how far the canvas goes beyond the frame.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from safa.data.crop import Box
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


def place_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file, then rename it: ``path`` appears whole or not at all."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_truth(path: Path, track: Track, canvas: Canvas, clips: tuple[Clip, ...]) -> None:
    """Write ``<video>.truth.npz``: the track, ``canvas`` (3,), ``clips`` (C, 2), ``bboxes`` (C, 4)."""
    arrays = {field.name: getattr(track, field.name) for field in fields(track)}
    place_whole(
        path,
        lambda temporary: np.savez(
            temporary,
            canvas=np.array([canvas.side, canvas.left, canvas.top]),
            clips=np.array([[clip.start, clip.end] for clip in clips]),
            bboxes=np.array([astuple(clip.box) for clip in clips]),
            **arrays,
        ),
    )


def load_truth(path: Path) -> tuple[Track, Canvas, tuple[Clip, ...]]:
    """Read what ``save_truth`` wrote; nothing is unpickled."""
    with np.load(path, allow_pickle=False) as file:
        track = Track(**{field.name: file[field.name] for field in fields(Track)})
        side, left, top = (int(v) for v in file["canvas"])
        spans, boxes = file["clips"].tolist(), file["bboxes"].tolist()
    clips = tuple(Clip(start, end, Box(*box)) for (start, end), box in zip(spans, boxes, strict=True))
    return track, Canvas(side, left, top), clips
