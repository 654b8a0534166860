"""Held-out scores during training, each beside what copying the source would score.

Reconstruction as in MODEL.md section 8: frame 0 of a clip is the source, further frames of it drive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from safa.config.training import ValidateConfig
from safa.data.pairs import ClipRef, FrameReader
from safa.head.model import landmarks_px
from safa.models.safa import Safa
from safa.models.tdmm import Tdmm
from safa.training.context import TrainContext

OUTER_EYE_CORNERS = (36, 45)  # iBUG numbers; their distance is the inter-ocular distance
SMALLEST_MSE = 1e-10  # a perfect frame counts as 100 dB


@dataclass(frozen=True)
class HeldOutClip:
    """Frames of one clip: source (1, 3, H, W) and driving (F, 3, H, W) in [0, 1], landmarks likewise in
    pixels."""

    source: Tensor
    driving: Tensor
    source_landmarks: Tensor
    driving_landmarks: Tensor


def read_held_out(
    clips: Sequence[ClipRef], reader: FrameReader, config: ValidateConfig, context: TrainContext
) -> list[HeldOutClip]:
    """This worker's share of the first ``config.clips`` clips, decoded once and kept."""
    chosen = sorted(clips, key=lambda clip: clip.clip_id)[: config.clips]
    return [_read(clip, reader, config.frames) for clip in chosen[context.rank :: context.world_size]]


def _read(clip: ClipRef, reader: FrameReader, count: int) -> HeldOutClip:
    drive = np.unique(np.linspace(min(1, clip.n_frames - 1), clip.n_frames - 1, count).round().astype(int))
    frames = np.stack(reader.frames(clip.clip_id, [0, *map(int, drive)]))
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous().float() / 255
    points = torch.from_numpy(reader.landmarks(clip.clip_id)[[0, *drive]])
    return HeldOutClip(images[:1], images[1:], points[:1], points[1:])


@torch.no_grad()
def held_out_scores(
    model: Safa | Tdmm, clips: Sequence[HeldOutClip], context: TrainContext
) -> dict[str, float]:
    """Mean scores over all driving frames of all workers' clips; the model's mode is put back.

    Keys: ``landmark_nme`` (mean landmark distance over the inter-ocular distance), and for ``Safa`` also
    ``l1`` and ``psnr`` of the prediction; each with ``_copy_source``. A score without a single frame is left
    out.
    """
    was_training = model.training
    model.eval()
    totals: dict[str, tuple[float, int]] = dict.fromkeys(_names(model), (0.0, 0))
    for clip in clips:
        for name, values in _clip_scores(model, clip, context.device).items():
            known = values[values.isfinite()]
            total, count = totals[name]
            totals[name] = (total + float(known.sum()), count + len(known))
    model.train(was_training)
    summed = context.sum(torch.tensor(list(totals.values()), dtype=torch.float64))
    return {
        name: total / count for name, (total, count) in zip(totals, summed.tolist(), strict=True) if count
    }


def _names(model: Safa | Tdmm) -> list[str]:
    scores = ["landmark_nme"] if isinstance(model, Tdmm) else ["l1", "psnr", "landmark_nme"]
    return [name + suffix for name in scores for suffix in ("", "_copy_source")]


def _clip_scores(model: Safa | Tdmm, clip: HeldOutClip, device: torch.device) -> dict[str, Tensor]:
    """Scores by name, (F,) each."""
    driving = clip.driving.to(device)
    size = driving.shape[-1]
    scores = {"landmark_nme_copy_source": _landmark_nme(clip.source_landmarks, clip.driving_landmarks)}
    if isinstance(model, Tdmm):
        code = model.estimate(driving).code
        points = landmarks_px(model.geometry(code), size)
    else:
        source = clip.source.to(device)
        state = model.analyse(driving)
        prediction = model.reenact(model.prepare_source(source), state).prediction
        points = landmarks_px(model.tdmm.geometry(state.code), size)
        scores |= {"l1": _l1(prediction, driving), "psnr": _psnr(prediction, driving)}
        scores |= {"l1_copy_source": _l1(source, driving), "psnr_copy_source": _psnr(source, driving)}
    return scores | {"landmark_nme": _landmark_nme(points.cpu(), clip.driving_landmarks)}


def _l1(predicted: Tensor, wanted: Tensor) -> Tensor:
    return (predicted - wanted).abs().flatten(1).mean(1)


def _psnr(predicted: Tensor, wanted: Tensor) -> Tensor:
    mse = (predicted - wanted).square().flatten(1).mean(1)
    return -10 * mse.clamp(min=SMALLEST_MSE).log10()


def _landmark_nme(predicted_FL2: Tensor, wanted_FL2: Tensor) -> Tensor:
    """(F,), NaN for frames without a face."""
    left, right = (wanted_FL2[:, corner] for corner in OUTER_EYE_CORNERS)
    distance = (predicted_FL2 - wanted_FL2).norm(dim=-1).mean(-1)
    error: Tensor = distance / (left - right).norm(dim=-1)
    return error
