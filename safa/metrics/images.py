"""How close predicted images are to their targets: one number per frame.

Images are (F, 3, H, W) float in [0, 1]; a single image (1, 3, H, W) is compared with every frame of the other
side, as *copy-the-source* does. Results are (F,) float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PSNR_CEILING = 100.0  # dB; of equal images, whose PSNR is infinite

# Constants of SSIM, as in its paper.
SSIM_SIGMA = 1.5
SSIM_WINDOW = 11
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first
MS_SSIM_MIN_SIZE = SSIM_WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)  # px: the window fits the smallest scale


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of all pixels and channels: 0 (equal) to 1, lower is better.

    This is the field's usual reconstruction error. No unit: 1 is the distance from black to white.
    """
    _check_images(prediction, target)
    return (prediction.double() - target.double()).abs().flatten(1).mean(1)


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB: 0 (black against white) to 100, higher is better.

    -10 log10(mean squared difference) of values in [0, 1]. Capped at 100 dB, as equal images
    have an infinite value.
    """
    _check_images(prediction, target)
    squared = (prediction.double() - target.double()).square().flatten(1).mean(1)
    return -10 * squared.clamp(min=10 ** (-PSNR_CEILING / 10)).log10()


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity: -1 to 1 (equal), higher is better. No unit.

    Wang et al., 2004, equation (13): Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, dynamic
    range 1, population covariance; the mean over all window positions that lie inside the image, and over the
    three channels. (torchmetrics also counts windows over a mirrored border, which moves the third digit.)
    """
    _check_images(prediction, target)
    if min(target.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW} px a side")
    luminance, contrast = _similarity(prediction.double(), target.double())
    scores: Tensor = (luminance * contrast).flatten(1).mean(1)
    return scores


def ms_ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Multi-scale structural similarity: 0 to 1 (equal), higher is better. No unit.

    Wang et al., 2003, with their five weights, as torchmetrics computes it: the window of SSIM, 2 x 2 mean
    pooling between the scales, factors below 0 taken as 0. The contrast of the first four scales is averaged
    over windows inside the image, the last scale's SSIM also over windows on a mirrored border. Images need
    at least 176 px a side.
    """
    _check_images(prediction, target)
    if min(target.shape[-2:]) < MS_SSIM_MIN_SIZE:
        raise ValueError(f"MS-SSIM needs images of at least {MS_SSIM_MIN_SIZE} px a side")
    x, y = prediction.double(), target.double()
    score = x.new_ones(1)  # torchmetrics' dense window in float64 would take longer than the model
    for weight in MS_SSIM_WEIGHTS[:-1]:
        _, contrast = _similarity(x, y)
        score = score * contrast.flatten(1).mean(1).relu() ** weight
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    luminance, contrast = _similarity(*(F.pad(z, [SSIM_WINDOW // 2] * 4, mode="reflect") for z in (x, y)))
    return score * (luminance * contrast).flatten(1).mean(1).relu() ** MS_SSIM_WEIGHTS[-1]


def flicker(prediction: Tensor, target: Tensor, prediction_before: Tensor, target_before: Tensor) -> Tensor:
    """Temporal flicker: 0 (changes as the target does) to 2, lower is better.

    Mean absolute difference, over pixels and channels, of what changed since the frame before: in the
    prediction and in the target. The first frame of a clip has no number. No unit: images are in [0, 1].

    Args:
        prediction_before, target_before: the frames before those of ``prediction`` and ``target``.
    """
    _check_images(prediction, target)
    change = prediction.double() - prediction_before.double()
    target_change = target.double() - target_before.double()
    return (change - target_change).abs().flatten(1).mean(1)


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the luminance and the contrast-structure term of SSIM at every position of the window."""
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variances = _window_mean(x * x) - mean_x**2 + _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    contrast = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
    return luminance, contrast


def _window_mean(images: Tensor) -> Tensor:
    """Return the Gaussian-weighted mean at every position of the SSIM window: (F, 3, H - 10, W - 10)."""
    offsets = torch.arange(SSIM_WINDOW, dtype=images.dtype) - SSIM_WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    shares = (weights / weights.sum()).tolist()
    # Rows, then columns, as sums of shifted images: in float64 torch's convolution takes 15 times as long.
    for dim in (-2, -1):
        length = images.shape[dim] - SSIM_WINDOW + 1
        mean = images.narrow(dim, 0, length) * shares[0]
        for shift, share in enumerate(shares[1:], start=1):
            mean.add_(images.narrow(dim, shift, length), alpha=share)
        images = mean
    return images


def _check_images(prediction: Tensor, target: Tensor) -> None:
    for images in (prediction, target):
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images are (F, 3, H, W) float, not {tuple(images.shape)} {images.dtype}")
    if prediction.shape[-2:] != target.shape[-2:]:
        raise ValueError(f"sizes differ: {tuple(prediction.shape)} against {tuple(target.shape)}")
    if 1 not in (len(prediction), len(target)) and len(prediction) != len(target):
        raise ValueError(f"numbers of frames differ: {len(prediction)} against {len(target)}")
