"""What the model makes of a held-out clip while it trains, as a strip of labelled pictures."""

from __future__ import annotations

import dataclasses

import torch

from safa.head.model import landmarks_px
from safa.inference.animator import AnimatedBatch
from safa.inference.panels import strip_panels
from safa.models.safa import Safa
from safa.models.tdmm import Tdmm
from safa.pictures.canvas import Picture, from_tensor
from safa.pictures.points import ESTIMATED, GIVEN, with_landmarks
from safa.pictures.strips import Panel, strip
from safa.training.validate import HeldOutClip

ROWS = 3  # driving frames shown
PANEL = 128  # px, the side of a picture


@torch.no_grad()
def held_out_strip(model: Safa | Tdmm, clip: HeldOutClip, device: torch.device) -> Picture:
    """A row of pictures for each of the first driving frames of a clip. The model is in eval mode.

    After stage 1 a row is the frame with the given landmarks (white) and those of the 3DMM (green); in stage
    2 it is the whole way from the source to the prediction.
    """
    shown = dataclasses.replace(
        clip, driving=clip.driving[:ROWS].to(device), driving_landmarks=clip.driving_landmarks[:ROWS]
    )
    rows = _head_rows(model, shown) if isinstance(model, Tdmm) else _full_rows(model, shown, device)
    return strip(rows, PANEL)


def _head_rows(model: Tdmm, clip: HeldOutClip) -> list[list[Panel]]:
    geometry = model.geometry(model.estimate(clip.driving).code)
    estimated = landmarks_px(geometry, clip.driving.shape[-1]).cpu().numpy()
    rows = []
    for frame, given, points in zip(
        map(from_tensor, clip.driving), clip.driving_landmarks.numpy(), estimated, strict=True
    ):
        marked = with_landmarks(frame, [(given, GIVEN), (points, ESTIMATED)], PANEL)
        rows.append([Panel("driving", frame), Panel("3DMM landmarks", marked)])
    return rows


def _full_rows(model: Safa, clip: HeldOutClip, device: torch.device) -> list[list[Panel]]:
    face = model.analyse(clip.driving)
    source = clip.source.to(device)
    batch = AnimatedBatch(clip.driving, face, model.reenact(model.prepare_source(source), face))
    estimated = landmarks_px(model.tdmm.geometry(face.code), clip.driving.shape[-1]).cpu().numpy()
    given = clip.driving_landmarks.numpy()
    picture = from_tensor(clip.source[0])
    return [strip_panels(picture, batch, i, given[i], estimated[i], PANEL) for i in range(len(clip.driving))]
