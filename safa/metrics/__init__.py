"""Metrics by name, as tables, reports and files call them.

``images`` compares images, ``landmarks`` points, ``identity`` embeddings, ``frechet`` sets of images;
``statistics`` makes one number with its interval from the scores of frames. docs/evaluation.md defines all of
them for readers outside the code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from safa.metrics import expression, frechet, identity, images, landmarks, lpips
from safa.metrics.expression import MOVEMENTS, ExpressionSums
from safa.metrics.identity import cosine, euclidean
from safa.metrics.images import flicker, l1, ms_ssim, psnr, ssim
from safa.metrics.landmarks import akd, detected, landmark_nme
from safa.metrics.statistics import Interval, Scores, bootstrap_interval, clip_score, overall_score

__all__ = [
    "AED",
    "AKD",
    "CLIP_METRICS",
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
    "PER_CLIP",
    "PSNR",
    "SSIM",
    "Columns",
    "ExpressionSums",
    "Interval",
    "Metric",
    "akd",
    "bootstrap_interval",
    "clip_score",
    "cosine",
    "detected",
    "euclidean",
    "flicker",
    "image_scores",
    "l1",
    "landmark_nme",
    "landmark_scores",
    "ms_ssim",
    "overall_score",
    "psnr",
    "ssim",
]

COPY_SOURCE = "_copy_source"  # suffix of a baseline's key: the score of showing the source all the time

Columns = dict[str, Tensor]  # key to one score per frame, (F,) or (1,) float64


@dataclass(frozen=True)
class Metric:
    """A score as tables and reports name it; its definition is the function's docstring.

    Attributes:
        key: its name in files; the baseline, copying the source, has ``key + COPY_SOURCE``.
        label: its name in reports.
        unit: of the number that reports show, which is the score times ``display_scale``.
        digits: decimals that reports show.
        best: the right value, where neither more nor less is better; None where more, or less, always is.
        chance: the score of a face whose movements have nothing to do with the driver's; None where copying
            the source is what has to be beaten.
        scored: what is scored, where that is not the picture.
    """

    key: str
    label: str
    function: Callable[..., Any]
    higher_is_better: bool
    unit: str = ""
    display_scale: float = 1.0
    digits: int = 3
    best: float | None = None
    chance: float | None = None
    scored: str = ""

    @property
    def direction(self) -> str:
        """Which numbers are better, in words."""
        if self.best is not None:
            return f"nearer to {self.best:g} is better"
        return "higher is better" if self.higher_is_better else "lower is better"

    def difference(self, scores: Scores, others: Scores) -> Scores:
        """How scores differ from others, (N,) each; where there is a best value, their distances from it."""
        if self.best is not None:
            return np.abs(scores - self.best) - np.abs(others - self.best)
        return scores - others

    def is_gain(self, difference: float) -> bool:
        """Whether a ``difference`` is one to the better."""
        return difference > 0 if self.higher_is_better and self.best is None else difference < 0

    @property
    def definition(self) -> str:
        """What is computed, with its range and unit: the function's docstring up to its arguments."""
        text = inspect.getdoc(self.function) or ""
        return " ".join(text.partition("Args:")[0].split())


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


PSNR = Metric("psnr", "PSNR", images.psnr, higher_is_better=True, unit="dB", digits=2)
SSIM = Metric("ssim", "SSIM", images.ssim, higher_is_better=True)
MS_SSIM = Metric("ms_ssim", "MS-SSIM", images.ms_ssim, higher_is_better=True)
L1 = Metric("l1", "L1", images.l1, higher_is_better=False, digits=4)
LPIPS = Metric("lpips", "LPIPS", lpips.Lpips.forward, higher_is_better=False)
FLICKER = Metric("flicker", "Flicker", images.flicker, higher_is_better=False, digits=4)
LANDMARK_NME = Metric(
    "landmark_nme",
    "Landmark NME",
    landmarks.landmark_nme,
    higher_is_better=False,
    unit="%",
    display_scale=100,
    digits=2,
    scored="of the 3D head, not of the picture",
)
AKD = Metric("akd", "AKD", landmarks.akd, higher_is_better=False, unit="px", digits=2)
DETECTION_RATE = Metric(
    "detection_rate", "Detection rate", landmarks.detected, True, unit="%", display_scale=100, digits=1
)
AED = Metric("aed", "AED", identity.euclidean, higher_is_better=False)
CSIM = Metric("csim", "CSIM", identity.cosine, higher_is_better=True)
FID = Metric("fid", "FID", frechet.frechet_distance, higher_is_better=False, digits=2)

IMAGE_METRICS = (PSNR, SSIM, L1)  # compare a prediction with its target at any size, without networks
FRAME_METRICS = (PSNR, SSIM, MS_SSIM, L1, LPIPS, FLICKER, LANDMARK_NME, AKD, DETECTION_RATE, AED, CSIM)
# Over all frames of a clip together, by the movements of ``expression``.
CLIP_METRICS = tuple(
    metric
    for name in MOVEMENTS
    for metric in (
        Metric(
            f"{name}_correlation", f"{_words(name)}, correlation", expression.correlation, True, chance=0.0
        ),
        Metric(f"{name}_gain", f"{_words(name)}, gain", expression.gain, True, best=1.0),
    )
)
PER_CLIP = (*FRAME_METRICS, *CLIP_METRICS)  # one number of each clip
METRICS = (*PER_CLIP, FID)  # FID is one number of all clips together


def image_scores(prediction: Tensor, source: Tensor, target: Tensor) -> Columns:
    """Score images (F, 3, H, W) with ``IMAGE_METRICS``, and beside them the baseline.

    Args:
        source: (1, 3, H, W), which the baseline shows instead of every prediction.
    """
    return {
        metric.key + side: metric.function(image, target)
        for side, image in (("", prediction), (COPY_SOURCE, source))
        for metric in IMAGE_METRICS
    }


def landmark_scores(prediction: Tensor, source: Tensor, target: Tensor) -> Columns:
    """Score landmarks (F, 68, 2) px with the NME, and beside it the baseline.

    Args:
        source: (1, 68, 2), the source frame's landmarks that came with the data.
        target: the driving frames' landmarks that came with the data; NaN where there is no face.
    """
    return {
        LANDMARK_NME.key: landmark_nme(prediction, target),
        LANDMARK_NME.key + COPY_SOURCE: landmark_nme(source, target),
    }
