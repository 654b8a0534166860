"""Augmentation that keeps frames and landmarks together: mirror, similarity, colour jitter.

Random numbers come from the caller's generator, so that a sample depends on its number in the
sample order alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safa.config.training import JitterConfig, SimilarityConfig

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def _mirror_order() -> np.ndarray:
    """For each of the 68 iBUG points, the point on the other side of the face."""
    order = np.arange(68)
    swaps = [(i, 16 - i) for i in range(8)]  # jaw line
    swaps += [(17 + i, 26 - i) for i in range(5)]  # brows
    swaps += [(31, 35), (32, 34)]  # nostrils
    swaps += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]  # eyes
    swaps += [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56)]  # outer lips
    swaps += [(60, 64), (61, 63), (67, 65)]  # inner lips
    for left, right in swaps:
        order[left], order[right] = right, left
    return order


MIRROR_ORDER = _mirror_order()


def mirror(frame: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flip a frame left to right, and its landmarks with it.

    A point at column x goes to W-1-x, and takes the number of its counterpart: the subject's left eye becomes
    the right eye of the mirrored face. Applying it twice gives the input back.

    Args:
        frame: (H, W, 3) uint8.
        landmarks: (68, 2) pixels; NaN stays NaN.
    """
    width = frame.shape[1]
    mirrored = landmarks[MIRROR_ORDER].copy()
    mirrored[:, 0] = width - 1 - mirrored[:, 0]
    return frame[:, ::-1], mirrored


@dataclass(frozen=True)
class Similarity:
    """One draw of a similarity of the plane: a point p goes to ``matrix @ p + offset``, in continuous pixels.

    ``matrix`` (2, 2) is a rotation times a factor, ``offset`` (2,).
    """

    matrix: np.ndarray
    offset: np.ndarray

    @staticmethod
    def draw(rng: np.random.Generator, config: SimilarityConfig, side: int) -> Similarity:
        """About the middle of a frame of ``side`` px. Always takes four numbers from ``rng``."""
        u = rng.uniform(-1.0, 1.0, size=4)
        angle = math.radians(config.turn_deg * u[0])
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = (1 + config.zoom * u[1]) * np.array([[cos, -sin], [sin, cos]])
        middle = np.full(2, side / 2)
        return Similarity(matrix, middle - matrix @ middle + config.shift * side * u[2:])

    def apply(self, frame: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The moved frame (H, W, 3) uint8, mirrored beyond its edges, and the moved landmarks (68, 2)."""
        height, width = frame.shape[:2]
        back = np.linalg.inv(self.matrix)
        corners = (np.array([[0, 0], [width, 0], [0, height], [width, height]]) - self.offset) @ back.T
        reach = max(-corners.min(), (corners - [width, height]).max(), 0)
        room = min(math.ceil(reach) + 1, min(height, width) - 1)  # what a mirrored edge can give
        padded = np.pad(frame, ((room, room), (room, room), (0, 0)), mode="reflect")
        from_out = np.column_stack([back, room - back @ self.offset])
        moved = Image.fromarray(padded).transform(
            (width, height), Image.Transform.AFFINE, from_out.ravel().tolist(), Image.Resampling.BILINEAR
        )
        points = landmarks @ self.matrix.T + self.offset
        return np.asarray(moved), points.astype(landmarks.dtype)


@dataclass(frozen=True)
class ColourShift:
    """One draw of colour jitter. The neutral shift is ``ColourShift(1, 1, 1, 0)``.

    ``brightness``, ``contrast`` and ``saturation`` are factors, ``hue`` is in turns of the colour circle.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float

    @staticmethod
    def draw(rng: np.random.Generator, config: JitterConfig) -> ColourShift:
        """Uniform in 1 +- amount (hue: 0 +- amount). Always takes four numbers from ``rng``."""
        u = rng.uniform(-1.0, 1.0, size=4)
        return ColourShift(
            brightness=1 + config.brightness * float(u[0]),
            contrast=1 + config.contrast * float(u[1]),
            saturation=1 + config.saturation * float(u[2]),
            hue=config.hue * float(u[3]),
        )

    def matrix(self) -> np.ndarray:
        """(3, 3): saturation, then hue, acting on RGB columns. Grey stays grey."""
        grey = np.tile(np.asarray(GREY_WEIGHTS), (3, 1))
        saturate = self.saturation * np.eye(3) + (1 - self.saturation) * grey
        angle = 2 * math.pi * self.hue
        rotate_iq = np.array(
            [
                [1, 0, 0],
                [0, math.cos(angle), -math.sin(angle)],
                [0, math.sin(angle), math.cos(angle)],
            ]
        )
        matrix: np.ndarray = _YIQ_TO_RGB @ rotate_iq @ _RGB_TO_YIQ @ saturate
        return matrix


_RGB_TO_YIQ = np.array([GREY_WEIGHTS, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)


def jitter_colours(images: Tensor, shifts: list[ColourShift]) -> Tensor:
    """Apply one colour shift to all N frames of a sample, alike.

    Brightness, contrast (about the mean grey of the sample's frames), saturation and hue are one affine map
    of RGB, so a batch costs one small matrix product. Two departures from the field's per-image version, so
    that both frames get the very same map: the grey mean is that of all N frames, and the hue turns in the
    YIQ plane, which is linear, instead of on the HSV hexagon.

    Args:
        images: (B, N, 3, H, W) float32 in [0, 1].
        shifts: B of them.

    Returns:
        A new tensor of the same shape, clamped to [0, 1].
    """
    batch, frames, channels, height, width = images.shape
    if len(shifts) != batch or channels != 3:
        raise ValueError(f"{len(shifts)} shifts do not fit images of shape {tuple(images.shape)}")
    gain = torch.tensor([s.brightness * s.contrast for s in shifts])
    lift = torch.tensor([(1 - s.contrast) * s.brightness for s in shifts])
    matrix = torch.tensor(np.stack([s.matrix() for s in shifts]), dtype=torch.float32)  # (B, 3, 3)
    matrix = matrix * gain[:, None, None]  # (B, 3, 3) * (B, 1, 1)
    grey = images.mean(dim=(1, 3, 4)) @ torch.tensor(GREY_WEIGHTS)  # (B, 3) @ (3,) -> (B,)
    # (B,) -> (B, 3, 1) -> (B*N, 3, 1)
    offset = (lift * grey)[:, None, None].expand(batch, 3, 1).repeat_interleave(frames, 0)
    pixels = images.reshape(batch * frames, 3, height * width)  # (B, N, 3, H, W) -> (B*N, 3, H*W)
    # (B*N, 3, 1) + (B*N, 3, 3) @ (B*N, 3, H*W)
    shifted = torch.baddbmm(offset, matrix.repeat_interleave(frames, 0), pixels)
    return shifted.clamp_(0, 1).view_as(images)  # (B*N, 3, H*W) -> (B, N, 3, H, W)
