"""What columns hold: functions of stored frames, in batches across clips.

A column's function takes N frames, (H, W, 3) uint8 RGB of one size, and their stored landmarks, (N, 68, 2) px
or NaN, and gives named values, (N,) or (N, D) float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from safa.config.annotate import AnnotateConfig, IdentityColumn, LandmarksColumn
from safa.data.columns import Values
from safa.data.detectors.dlib_faces import DlibIdentity
from safa.data.detectors.loading import load_landmark_detector
from safa.data.video import Frame
from safa.errors import UserError
from safa.torchscript import load_script

Annotator = Callable[[Sequence[Frame], NDArray[np.float32]], Values]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601
DARK, BRIGHT = 16, 239  # luma below and above which a pixel counts as lost


def make_annotator(config: AnnotateConfig) -> Annotator:
    """Load what the column needs.

    Raises:
        UserError: weights are missing, or are not what they should be.
    """
    if isinstance(config.column, LandmarksColumn):
        networks = load_landmark_detector(config.column.detector)

        def landmarks(frames: Sequence[Frame], points: NDArray[np.float32]) -> Values:
            found = networks(frames)
            flat = found.points.reshape(len(frames), -1)  # (N, 68, 2) -> (N, 136)
            return {"landmarks": flat, "face_score": found.scores}

        return landmarks
    if isinstance(config.column, IdentityColumn):
        return _identity(config.column)
    return quality


def quality(frames: Sequence[Frame], points: NDArray[np.float32]) -> Values:
    """Sharpness and exposure.

    - ``sharpness``: variance of the Laplacian of the luma, 0 (blurred) upwards, in squared levels of 255
      (Pech-Pacheco et al., ICPR 2000);
    - ``exposure``: mean luma, 0 (black) to 1 (white);
    - ``clipped``: share of pixels that are nearly black or nearly white, 0 to 1.
    """
    values = np.zeros((3, len(frames)), np.float32)
    for number, frame in enumerate(frames):
        luma = frame @ LUMA
        middle = luma[1:-1, 1:-1]
        around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
        values[0, number] = (around - 4 * middle).var()
        values[1, number] = luma.mean() / 255
        values[2, number] = ((luma < DARK) | (luma > BRIGHT)).mean()
    return dict(zip(("sharpness", "exposure", "clipped"), values, strict=True))


def _identity(column: IdentityColumn) -> Annotator:
    if column.weights == "dlib":
        dlib = DlibIdentity()
        return lambda frames, points: {"identity": dlib.embeddings(frames, points)}
    network = load_script(column.weights, column.device, "Check weights.")

    @torch.inference_mode()
    def embed(frames: Sequence[Frame], points: NDArray[np.float32]) -> Values:
        batch = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)  # (N, H, W, 3) -> (N, 3, H, W)
        found = network(batch.to(column.device, torch.float32) / 255)
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != len(frames):
            raise UserError("does not give one embedding per image", str(column.weights))
        return {"identity": found.float().cpu().numpy()}

    return embed
