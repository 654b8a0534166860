"""Held-out reconstruction during training: scores, and a strip of labelled images.

Frame 0 of a clip is the source, further frames of it drive (docs/model.md, section 8). Each score is beside
that of copying the source.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from safa.config.training import FullStage, HeadStage, ValidateConfig
from safa.data.clip_store import ClipStore
from safa.head.model import landmarks_px
from safa.metrics import (
    COPY_SOURCE,
    IMAGE_METRICS,
    L1,
    LANDMARK_NME,
    Metric,
    clip_score,
    image_scores,
    landmark_scores,
)
from safa.models.safa import AnimatedBatch, Safa
from safa.models.tdmm import Tdmm
from safa.training.context import TrainContext
from safa.visualize.images import RgbImage, from_tensor
from safa.visualize.overlays import ESTIMATED, TARGET, with_landmarks
from safa.visualize.panels import Panel, strip, strip_panels


@dataclass(frozen=True)
class HeldOutClip:
    """Frames of one clip: source (1, 3, H, W) and driving (F, 3, H, W) in [0, 1].

    The landmarks are (1, 68, 2) and (F, 68, 2) in pixels.
    """

    source: Tensor
    driving: Tensor
    source_landmarks: Tensor
    driving_landmarks: Tensor


def read_held_out(store: ClipStore, config: ValidateConfig, context: TrainContext) -> list[HeldOutClip]:
    """This worker's share of the first ``config.clips`` clips of the split, decoded once and kept."""
    chosen = store.numbers(config.split)[: config.clips]
    return [_read(int(clip), store, config.frames) for clip in chosen[context.rank :: context.world_size]]


def _read(clip: int, store: ClipStore, count: int) -> HeldOutClip:
    last = store.n_frames(clip) - 1
    indices = [0, *np.unique(np.linspace(min(1, last), last, count).round().astype(int)).tolist()]
    frames = np.stack(store.frames(clip, indices))
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous().float() / 255
    points = torch.from_numpy(np.array(store.landmarks(clip, indices)))  # a copy that may be written to
    return HeldOutClip(images[:1], images[1:], points[:1], points[1:])


def best_metric(stage: HeadStage | FullStage) -> Metric:
    """The score that says which state of a stage is the best."""
    return LANDMARK_NME if isinstance(stage, HeadStage) else L1


@torch.no_grad()
def held_out_scores(
    model: Safa | Tdmm, clips: Sequence[HeldOutClip], context: TrainContext
) -> dict[str, float]:
    """Mean over the clips of all workers, each of the mean over its driving frames, as in evaluation.

    Leaves the model in eval mode. Keys are those of ``safa.metrics``: of the landmarks, and for ``Safa`` of
    the prediction; each also with ``_copy_source``. A score without a single frame is left out.
    """
    model.eval()
    metrics = [LANDMARK_NME] if isinstance(model, Tdmm) else [*IMAGE_METRICS, LANDMARK_NME]
    names = [metric.key + suffix for metric in metrics for suffix in ("", COPY_SOURCE)]
    sums, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for clip in clips:
        for name, frames in _frame_scores(model, clip, context.device).items():
            score = clip_score(frames.cpu().numpy())
            if math.isfinite(score):
                sums[name] += score
                counts[name] += 1
    totals = context.sum(torch.tensor([[*sums.values()], [*counts.values()]], dtype=torch.float64))
    return {name: total / count for name, total, count in zip(names, *totals.tolist(), strict=True) if count}


def _frame_scores(model: Safa | Tdmm, clip: HeldOutClip, device: torch.device) -> dict[str, Tensor]:
    """Return the scores of a clip's driving frames by key, (F,) each."""
    driving, source = clip.driving.to(device), clip.source.to(device)
    scores = {}
    if isinstance(model, Tdmm):
        geometry = model.geometry(model.estimate(driving).code)
    else:
        state = model.analyse(driving)
        geometry = model.tdmm.geometry(state.code)
        prediction = model.reenact(model.prepare_source(source), state).prediction
        scores = image_scores(prediction, source, driving)
    points = landmarks_px(geometry, driving.shape[-1]).cpu()
    return scores | landmark_scores(points, clip.source_landmarks, clip.driving_landmarks)


# ---- the strip ---------------------------------------------------------------------------------------------

ROWS = 3  # driving frames shown
PANEL = 128  # px, the side of an image


@torch.no_grad()
def held_out_strip(model: Safa | Tdmm, clip: HeldOutClip, device: torch.device) -> RgbImage:
    """Draw a row of images for each of the first driving frames of a clip. The model must be in eval mode.

    In stage 1 a row is the frame, with the target landmarks (white) and those of the 3DMM (green); in stage 2
    it shows all steps from the source to the prediction.
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
    for frame, target, points in zip(
        map(from_tensor, clip.driving), clip.driving_landmarks.numpy(), estimated, strict=True
    ):
        drawn = with_landmarks(frame, [(target, TARGET), (points, ESTIMATED)], PANEL)
        rows.append([Panel("driving", frame), Panel("3DMM landmarks", drawn)])
    return rows


def _full_rows(model: Safa, clip: HeldOutClip, device: torch.device) -> list[list[Panel]]:
    face = model.analyse(clip.driving)
    source = clip.source.to(device)
    batch = AnimatedBatch(clip.driving, face, model.reenact(model.prepare_source(source), face))
    estimated = landmarks_px(model.tdmm.geometry(face.code), clip.driving.shape[-1]).cpu().numpy()
    targets = clip.driving_landmarks.numpy()
    source_image = from_tensor(clip.source[0])
    return [
        strip_panels(source_image, batch, i, targets[i], estimated[i], PANEL)
        for i in range(len(clip.driving))
    ]
