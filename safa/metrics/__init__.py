"""Metrics by name: what tables, reports and files call them.

``images`` compares pictures, ``landmarks`` points, ``identity`` embeddings, ``frechet`` sets of pictures;
``statistics`` gets from frames to one number with its interval. docs/evaluation.md holds the definitions for
readers outside the code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from safa.metrics import frechet, identity, images, landmarks, lpips
from safa.metrics.identity import cosine, euclidean
from safa.metrics.images import flicker, l1, ms_ssim, psnr, ssim
from safa.metrics.landmarks import akd, detected, landmark_nme
from safa.metrics.statistics import Interval, bootstrap_interval, clip_score, overall_score

__all__ = [
    "AED",
    "AKD",
    "COPY_SOURCE",
    "CSIM",
    "DETECTION_RATE",
    "FID",
    "FLICKER",
    "FRAME_METRICS",
    "IMAGE_METRICS",
    "L1",
    "LANDMARK_NME",
    "LPIPS",
    "METRICS",
    "MS_SSIM",
    "PSNR",
    "SSIM",
    "Interval",
    "Metric",
    "akd",
    "bootstrap_interval",
    "clip_score",
    "cosine",
    "detected",
    "euclidean",
    "flicker",
    "l1",
    "landmark_nme",
    "ms_ssim",
    "overall_score",
    "psnr",
    "ssim",
]

COPY_SOURCE = "_copy_source"


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
    function: Callable[..., Any]
    higher_is_better: bool
    unit: str = ""
    shown_times: float = 1.0
    digits: int = 3

    @property
    def definition(self) -> str:
        """What is computed, its range and unit: the docstring up to its arguments, in one line."""
        text = inspect.getdoc(self.function) or ""
        return " ".join(text.partition("Args:")[0].split())


PSNR = Metric("psnr", "PSNR", images.psnr, higher_is_better=True, unit="dB", digits=2)
SSIM = Metric("ssim", "SSIM", images.ssim, higher_is_better=True)
MS_SSIM = Metric("ms_ssim", "MS-SSIM", images.ms_ssim, higher_is_better=True)
L1 = Metric("l1", "L1", images.l1, higher_is_better=False, digits=4)
LPIPS = Metric("lpips", "LPIPS", lpips.Lpips.forward, higher_is_better=False)
FLICKER = Metric("flicker", "Flicker", images.flicker, higher_is_better=False, digits=4)
LANDMARK_NME = Metric(
    "landmark_nme", "Landmark NME", landmarks.landmark_nme, False, unit="%", shown_times=100, digits=2
)
AKD = Metric("akd", "AKD", landmarks.akd, higher_is_better=False, unit="px", digits=2)
DETECTION_RATE = Metric(
    "detection_rate", "Detection rate", landmarks.detected, True, unit="%", shown_times=100, digits=1
)
AED = Metric("aed", "AED", identity.euclidean, higher_is_better=False)
CSIM = Metric("csim", "CSIM", identity.cosine, higher_is_better=True)
FID = Metric("fid", "FID", frechet.frechet_distance, higher_is_better=False, digits=2)

IMAGE_METRICS = (PSNR, SSIM, L1)  # of a prediction and the frame it should be, at any size, without networks
FRAME_METRICS = (PSNR, SSIM, MS_SSIM, L1, LPIPS, FLICKER, LANDMARK_NME, AKD, DETECTION_RATE, AED, CSIM)
METRICS = (*FRAME_METRICS, FID)  # FID is of all clips together
