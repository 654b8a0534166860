"""Scorers: networks that metrics need, by name or from the user's files; without them metrics are skipped.

``face_scorers`` has those with a name. Others are TorchScript files (``torch.jit.load``): a network as data,
without its Python code, so that any network fits that keeps to the contract:

- landmarks: images (B, 3, S, S) in [0, 1] to (B, 68, 2) px of them, NaN where there is no face;
- identity: images (B, 3, S, S) in [0, 1] to embeddings (B, D);
- inception: images (B, 3, S, S) uint8 and ``return_features=True`` to features (B, D).

TorchScript is no sandbox: use only files from people you trust.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from safa.config.inference import ScorerConfig
from safa.data.detectors.dlib_faces import missing as missing_of_dlib
from safa.errors import UserError
from safa.evaluation.face_scorers import DlibFaces, FanLandmarks
from safa.files import Location, shown
from safa.head.model import landmarks_px
from safa.metrics import AED, AKD, CLIP_METRICS, CSIM, DETECTION_RATE, FID, LPIPS, MS_SSIM
from safa.metrics.images import MS_SSIM_MIN_SIZE
from safa.metrics.lpips import MIN_SIZE as LPIPS_MIN_SIZE
from safa.metrics.lpips import Lpips, load_lpips
from safa.models.tdmm import Tdmm
from safa.torchscript import load_script

log = logging.getLogger(__name__)

Network = Callable[[Tensor], Tensor]  # images (B, 3, S, S) in [0, 1] to one row each


@dataclass(frozen=True)
class Scorers:
    """The networks that were loaded; None where none was named.

    Attributes:
        landmarks: images to landmarks (B, 68, 2) px; NaN where there is no face.
        identity: images to embeddings (B, D).
        lpips: compares images.
        inception: images to features (B, D).
        landmarks_every, identity_every: each how many frames of a clip these see; from frame 0 on.
    """

    landmarks: Network | None = None
    identity: Network | None = None
    lpips: Lpips | None = None
    inception: Network | None = None
    landmarks_every: int = 1
    identity_every: int = 1


def load_scorers(config: ScorerConfig, tdmm: Tdmm, device: str | torch.device = "cpu") -> Scorers:
    """Load the networks that the settings name.

    Args:
        tdmm: estimates the landmarks if the setting is ``landmarks: model``.

    Raises:
        UserError: a file cannot be read, its network does not keep to the contract, or a named network is
            not here.
    """
    size = tdmm.image_size
    dlib = DlibFaces() if "dlib" in (config.landmarks, config.identity) else None
    return Scorers(
        landmarks=_landmarks(config, tdmm, device, dlib),
        identity=_identity(config, tdmm, device, dlib),
        lpips=load_lpips(config.lpips).to(device) if config.lpips and size >= LPIPS_MIN_SIZE else None,
        inception=_inception(config.inception, device, size),
        landmarks_every=config.landmarks_every,
        identity_every=config.identity_every,
    )


def scorers_here(config: ScorerConfig) -> ScorerConfig:
    """Return the settings without dlib, if it is not here.

    The program that starts an evaluation decides that for all its workers: one of them that lacks dlib then
    fails, instead of leaving out scores.
    """
    named = {name: None for name in ("landmarks", "identity") if getattr(config, name) == "dlib"}
    if not named or not (lacking := missing_of_dlib()):
        return config
    log.warning("evaluate: %s, so scores that need it are left out (scorers)", lacking)
    return config.model_copy(update=named)


def skipped_metrics(config: ScorerConfig, image_size: int) -> dict[str, str]:
    """Return the keys of the metrics that an evaluation leaves out, each with the reason."""
    reasons = {
        **{metric.key: _missing(config.landmarks, "landmarks") for metric in (AKD, DETECTION_RATE)},
        **{metric.key: _missing(config.landmarks, "landmarks") for metric in CLIP_METRICS},
        AED.key: _missing(config.identity, "identity"),
        CSIM.key: _missing(config.identity, "identity"),
        LPIPS.key: _missing(config.lpips, "lpips"),
        FID.key: _missing(config.inception, "inception"),
    }
    for metric, least in ((MS_SSIM, MS_SSIM_MIN_SIZE), (LPIPS, LPIPS_MIN_SIZE)):
        if image_size < least:
            reasons[metric.key] = f"skipped: images have {image_size} px, but it needs {least} px"
    return {key: reason for key, reason in reasons.items() if reason}


def _missing(file: object, name: str) -> str:
    if file == "dlib":
        lacking = missing_of_dlib()
        return f"skipped: {lacking} (scorers.{name})" if lacking else ""
    return "" if file is not None else f"skipped: no weights are named (scorers.{name})"


def _identity(
    config: ScorerConfig, tdmm: Tdmm, device: str | torch.device, dlib: DlibFaces | None
) -> Network | None:
    if config.identity == "dlib":
        assert dlib is not None
        return dlib.identity
    path, size = config.identity, tdmm.image_size
    network = _script(path, device, size, "scorers.identity")
    if network is None or path is None:
        return None
    if network(torch.zeros(1, 3, size, size, device=device)).ndim != 2:
        fix = "See scorers.identity in docs/evaluation.md."
        raise UserError("does not give (B, D) embeddings", shown(path), fix)
    return network


def _landmarks(
    config: ScorerConfig, tdmm: Tdmm, device: str | torch.device, dlib: DlibFaces | None
) -> Network | None:
    if config.landmarks == "dlib":
        assert dlib is not None
        return dlib.landmarks
    if config.landmarks == "fan":
        return FanLandmarks(str(device))
    if config.landmarks == "model":
        return lambda image: landmarks_px(tdmm.geometry(tdmm.estimate(image).code), image.shape[-1])
    path = config.landmarks
    network = _script(path, device, tdmm.image_size, "scorers.landmarks")
    if network is None or path is None:
        return None
    black = torch.zeros(1, 3, tdmm.image_size, tdmm.image_size, device=device)
    if network(black).shape != (1, 68, 2):
        raise UserError("does not give (B, 68, 2) points", shown(path), "Use a 68-point detector.")
    return network


def _script(path: Location | None, device: str | torch.device, size: int, key: str) -> Network | None:
    """Load a TorchScript file and try it once on a black image."""
    if path is None:
        return None
    script = _load(path, device, key)

    def network(image: Tensor) -> Tensor:
        result = script(image)
        if not isinstance(result, Tensor) or len(result) != len(image):
            fix = f"See {key} in docs/evaluation.md."
            raise UserError("does not give one row per image", shown(path), fix)
        return result

    _try(lambda: network(torch.zeros(1, 3, size, size, device=device)), path, key)
    return network


def _inception(path: Location | None, device: str | torch.device, size: int) -> Network | None:
    if path is None:
        return None
    script = _load(path, device, "scorers.inception")

    def network(image: Tensor) -> Tensor:
        levels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
        features: Tensor = script(levels, return_features=True)
        return features.flatten(1)

    _try(lambda: network(torch.zeros(1, 3, size, size, device=device)), path, "scorers.inception")
    return network


def _load(path: Location, device: str | torch.device, key: str) -> Callable[..., Tensor]:
    fix = f"Fix {key}, or remove it to skip its metrics."
    network: Callable[..., Tensor] = load_script(path, device, fix)
    return network


def _try(call: Callable[[], Tensor], path: Location, key: str) -> None:
    try:
        call()
    except Exception as error:  # from the interpreter, or from the script's assertions
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"fails on an image ({lines[-1][:200]})", shown(path), f"See {key} in docs/evaluation.md."
        ) from None
