"""How close a prediction is to the truth. One number per frame; clips and data sets are means of them.

From frames to one number: ``clip_score`` is the mean over a clip's frames, ``overall_score`` the mean over
clips, so that a long clip weighs as much as a short one. NaN marks a frame that has no such number (no face)
and is left out. Every score can be taken of the source frame instead of the prediction: *copy-the-source*,
the baseline of somebody who does nothing.

Images are (F, 3, H, W) float in [0, 1]; a single image (1, 3, H, W) is compared with every frame of the other
side. Results are (F,) float64.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Scores = NDArray[np.float64]

OUTER_EYE_CORNERS = (36, 45)  # iBUG numbers, counted from 0
PSNR_CEILING = 100.0  # dB; of equal images, whose PSNR is infinite

# Constants of SSIM, as in its paper.
SSIM_SIGMA = 1.5
SSIM_WINDOW = 11
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def l1(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of all pixels and channels: 0 (equal) to 1, lower is better.

    The field's reconstruction error. No unit: 1 is the distance from black to white.
    """
    _check_images(predicted, wanted)
    return (predicted.double() - wanted.double()).abs().flatten(1).mean(1)


def psnr(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB: 0 (black against white) to 100, higher is better.

    -10 log10(mean squared difference) of values in [0, 1]. Capped at 100 dB: equal images have none.
    """
    _check_images(predicted, wanted)
    squared = (predicted.double() - wanted.double()).square().flatten(1).mean(1)
    return -10 * squared.clamp(min=10 ** (-PSNR_CEILING / 10)).log10()


def ssim(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Structural similarity: -1 to 1 (equal), higher is better. No unit.

    Wang et al., 2004, equation (13): Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, dynamic
    range 1, population covariance; the mean over all window positions that lie inside the image, and over the
    three channels. (torchmetrics also counts windows over a mirrored border, which moves the third digit.)
    """
    _check_images(predicted, wanted)
    if min(wanted.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW} px a side")
    x, y = predicted.double(), wanted.double()
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variances = _window_mean(x * x) - mean_x**2 + _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
    scores: Tensor = (luminance * structure).flatten(1).mean(1)
    return scores


def _window_mean(images: Tensor) -> Tensor:
    """Gaussian-weighted mean at every position of the SSIM window: (F, 3, H - 10, W - 10)."""
    offsets = torch.arange(SSIM_WINDOW, dtype=images.dtype, device=images.device) - SSIM_WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    kernel = (weights / weights.sum()).expand(3, 1, 1, SSIM_WINDOW)
    return F.conv2d(F.conv2d(images, kernel, groups=3), kernel.mT, groups=3)


def landmark_nme(predicted_FL2: Tensor, wanted_FL2: Tensor) -> Tensor:
    """Normalised mean error of the 68 landmarks: 0 (equal) upwards, lower is better; 0.08 is said as 8 %.

    Mean distance of a point from where it should be, over the inter-ocular distance, which is the distance of
    the outer eye corners (points 36 and 45, from 0) of the wanted landmarks. No unit. NaN where the frame has
    no face.

    Args:
        predicted_FL2, wanted_FL2: (F, 68, 2) in any unit, the same for both; either may be (1, 68, 2).
    """
    if predicted_FL2.shape[-2:] != (68, 2) or wanted_FL2.shape[-2:] != (68, 2):
        raise ValueError(
            f"landmarks are (F, 68, 2), not {tuple(predicted_FL2.shape)} and {tuple(wanted_FL2.shape)}"
        )
    left, right = (wanted_FL2[:, corner].double() for corner in OUTER_EYE_CORNERS)
    distance = (predicted_FL2.double() - wanted_FL2.double()).norm(dim=-1).mean(-1)
    error: Tensor = distance / (left - right).norm(dim=-1)
    return error


@dataclass(frozen=True)
class Metric:
    """A score as tables and reports name it; its definition is the function's docstring.

    Attributes:
        key: its name in files; copy-the-source has ``key`` and ``COPY_SOURCE``.
        unit: behind a shown number; shown numbers are multiplied by ``shown_times``.
        digits: decimals of a shown number.
    """

    key: str
    label: str
    function: Callable[[Tensor, Tensor], Tensor]
    higher_is_better: bool
    unit: str = ""
    shown_times: float = 1.0
    digits: int = 3

    @property
    def definition(self) -> str:
        """What is computed, its range and unit: the docstring up to its arguments, in one line."""
        text = inspect.getdoc(self.function) or ""
        return " ".join(text.partition("Args:")[0].split())


COPY_SOURCE = "_copy_source"
PSNR = Metric("psnr", "PSNR", psnr, higher_is_better=True, unit="dB", digits=2)
SSIM = Metric("ssim", "SSIM", ssim, higher_is_better=True)
L1 = Metric("l1", "L1", l1, higher_is_better=False, digits=4)
LANDMARK_NME = Metric(
    "landmark_nme", "Landmark NME", landmark_nme, higher_is_better=False, unit="%", shown_times=100, digits=2
)
IMAGE_METRICS = (PSNR, SSIM, L1)  # of a prediction and the frame it should be
METRICS = (*IMAGE_METRICS, LANDMARK_NME)


def clip_score(frames: Scores) -> float:
    """Mean over a clip's frames (F,); NaN if no frame has a number."""
    return _mean_of_known(frames)


def overall_score(clips: Scores) -> float:
    """Mean over clips (C,) of their ``clip_score``; NaN if no clip has one."""
    return _mean_of_known(clips)


def _mean_of_known(values: Scores) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _check_images(predicted: Tensor, wanted: Tensor) -> None:
    for images in (predicted, wanted):
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images are (F, 3, H, W) float, not {tuple(images.shape)} {images.dtype}")
    if predicted.shape[-2:] != wanted.shape[-2:]:
        raise ValueError(f"sizes differ: {tuple(predicted.shape)} against {tuple(wanted.shape)}")
    if 1 not in (len(predicted), len(wanted)) and len(predicted) != len(wanted):
        raise ValueError(f"numbers of frames differ: {len(predicted)} against {len(wanted)}")
