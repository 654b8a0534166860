"""Scores of what the model makes: each defined in its docstring, named in ``METRICS``, averaged one way.

``images`` compares pictures, ``faces`` points and identities, ``frechet`` sets of pictures; ``networks``
reads the networks some of them need, ``statistics`` gets from frames to one number with its interval.
docs/evaluation.md holds the definitions for readers outside the code.
"""

from safa.metrics.catalogue import (
    AED,
    AKD,
    COPY_SOURCE,
    CSIM,
    DETECTION_RATE,
    FID,
    FLICKER,
    FRAME_METRICS,
    IMAGE_METRICS,
    L1,
    LANDMARK_NME,
    LPIPS,
    METRICS,
    MS_SSIM,
    PSNR,
    SSIM,
    Metric,
)
from safa.metrics.faces import akd, cosine, detected, euclidean, landmark_nme
from safa.metrics.images import flicker, l1, ms_ssim, psnr, ssim
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
